"""A TorchScript file as the extractor: a network of somebody else's, with its code in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cxr.errors import UserError
from cxr.extractor.base import Extractor
from cxr.files import file_sha256

__all__ = ["TorchScriptExtractor"]

Range = Literal["0..255", "0..1", "-1..1"]
SCALES: dict[str, tuple[float, float]] = {"0..255": (1.0, 0.0), "0..1": (255.0, 0.0), "-1..1": (127.5, 1.0)}


class TorchScriptExtractor(Extractor):
    """Features (B, d) of what `torch.jit.save` wrote, run in evaluation mode."""

    def __init__(
        self,
        *,
        path: str,
        trust: bool,
        input_size_px: int | None,
        input_range: Range,
        channels: Literal[1, 3],
    ) -> None:
        """Load it; say what it takes, for the file does not.

        Args:
            path: the file. It is a program, not only weights: TorchScript has instructions that read and write files.
            trust: that this is known, and whoever made the file is trusted; without it nothing is opened.
            input_size_px: images are resized to it; None: they come as they are.
            input_range: of the float32 values that it takes.
            channels: 3: the gray image repeated.

        Raises:
            UserError: no such file, not trusted, or no TorchScript.
        """
        file = Path(path)
        if not file.is_file():
            raise UserError(f"extractor.path: {file}: no such file; set extractor.path=FILE (torch.jit.save)")
        if not trust:
            raise UserError(
                f"extractor.trust: {file} is a program that would run with your rights, not only weights; "
                "if you trust who made it set extractor.trust=true"
            )
        try:
            self.network = self._script = torch.jit.load(str(file), map_location="cpu").eval()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise UserError(f"extractor.path: {file} is no TorchScript ({str(error).splitlines()[0][:80]}); save the network "
                            "by torch.jit.save and name that file") from error  # fmt: skip
        self._size_px, self._channels, self._scale = input_size_px, channels, SCALES[input_range]
        sha256 = file_sha256(file)
        taken = "" if input_size_px is None else f",{input_size_px}px"
        self.name, self.layer = f"{file.stem}@{sha256[:8]}{taken}", ""
        self.protocol: dict[str, Any] = {
            "extractor": f"TorchScript {file.name}",
            "weights_sha256": sha256,
            "input_px": input_size_px,
            "resize": "none"
            if input_size_px is None
            else "bilinear, antialiased, in float, unless of that size",
            "quantisation": "none after resizing",
            "channels": "one" if channels == 1 else "one, repeated to 3",
            "range": input_range,
        }

    def answer(self, images: Tensor) -> tuple[Tensor, None]:
        """Map uint8 (B, 1, S, S) to float32 features (B, d); a UserError where the file returns something else."""
        x = images.float()
        if self._size_px is not None and x.shape[-1] != self._size_px:
            x = F.interpolate(x, (self._size_px, self._size_px), mode="bilinear", antialias=True)
        by, less = self._scale
        try:
            found = self._script((x / by - less).expand(-1, self._channels, -1, -1))
        except RuntimeError as error:
            raise UserError(f"extractor.path: {self.name} does not take {self._channels} × {x.shape[-1]} px "
                            f"({str(error).strip().splitlines()[-1][:100]}); set extractor.channels and "
                            "extractor.input_size_px to what it was made for") from error  # fmt: skip
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(x):
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise UserError(f"extractor.path: {self.name} returned {got}, expected features ({len(x)}, d): end it with "
                            "a pool and a flatten, and save it again")  # fmt: skip
        return found, None
