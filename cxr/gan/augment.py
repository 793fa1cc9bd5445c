"""What the discriminator is shown of a small training set: the same random, differentiable changes of real and fake.

DiffAugment: Zhao, Liu, Lin, Zhu, Han 2020, "Differentiable Augmentation for Data-Efficient GAN Training".
ADA: Karras, Aittala, Hellsten, Laine, Lehtinen, Aila 2020, "Training Generative Adversarial Networks with Limited Data".

Only what differs between two radiographs of one chest: exposure and position. Left out on purpose: flips, quarter turns
and luma flips, which a generator learns as anatomy (the heart on the right); saturation and hue, which a gray image does
not have. Departures from both papers: what moves in repeats the edge (a black strip is a mark that leaks), shifts are
whole pixels, all amounts are uniform. Rotation and zoom interpolate, and so hide from D how sharp an image is: 0 where
every image is augmented.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from cxr.errors import UserError

__all__ = ["ADA", "DiffAugment"]

_DRAWS = 8  # per image: brightness, contrast, shift x, shift y, zoom, rotation, cut-out's centre x, centre y
_GATES = 6  # per image: whether brightness, contrast, translation, zoom, rotation, cut-out are done


class DiffAugment(nn.Module):
    """Change every image by every transformation whose strength is not 0."""

    def __init__(
        self,
        *,
        brightness: float,
        contrast: float,
        translation: float,
        zoom: float,
        rotation_deg: float,
        cutout: float,
    ) -> None:
        """Take strengths; 0 turns a transformation off.

        Args:
            brightness: ± this added, of images in [-1, 1]; in expectation the image as it was.
            contrast: by 1 ± this about the image's mean, in [0, 1]; in expectation the image as it was.
            translation: ± share of the side, in [0, 1).
            zoom: by 1 ± this about the centre, in [0, 1).
            rotation_deg: ± degrees about the centre, at most 45.
            cutout: side of a gray square as a share of the image's, in [0, 1); its marks may be learnt.
        """
        super().__init__()
        strengths = {
            "brightness": (brightness, 2.0),
            "contrast": (contrast, 1.0),
            "translation": (translation, 0.99),
            "zoom": (zoom, 0.99),
            "rotation_deg": (rotation_deg, 45.0),
            "cutout": (cutout, 0.99),
        }
        for name, (value, most) in strengths.items():
            if not 0 <= value <= most:
                raise UserError(
                    f"gan_augment.{name}: got {value}, expected 0 (off) to {most}; set gan_augment.{name}=0"
                )
        self.brightness, self.contrast, self.translation = brightness, contrast, translation
        self.zoom, self.rotation_deg, self.cutout = zoom, rotation_deg, cutout
        self._off = not any(value for value, _ in strengths.values())

    @property
    def probability(self) -> float:
        """Of each transformation, for each image."""
        return 1.0

    def forward(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images float (B, C, H, W) in [-1, 1] changed, differentiable (twice, too) in them.

        Values are not clipped, as that would take gradients away: they leave [-1, 1] by at most `brightness`, and
        by `contrast` times an image's distance from its mean. The input itself comes back where nothing is to be done.

        generator: the CPU's, the only source of draws; (B, 14) numbers are taken whatever the strengths.
        """
        probability = self.probability
        drawn = torch.rand(len(images), _DRAWS + _GATES, generator=generator)
        if self._off or probability == 0:
            return images
        values = self._values(drawn, probability, *images.shape[2:])
        bright, contrast, shift_x, shift_y, scale, angle, cut_x, cut_y = (
            values.to(images.device, non_blocking=True).to(images.dtype).unbind(1)
        )
        out = images
        if self.brightness or self.contrast:
            out = _expose(out, bright, contrast)
        if self.translation or self.zoom or self.rotation_deg:
            rows, columns = _sources(images, shift_x, shift_y, scale, angle)
            whole = not (self.zoom or self.rotation_deg)
            out = _pick(out, rows, columns) if whole else _interpolate(out, rows, columns)
        if self.cutout:
            out = _cut_out(out, self.cutout, cut_x, cut_y)
        if images.is_contiguous(memory_format=torch.channels_last):
            out = out.contiguous(memory_format=torch.channels_last)
        return out

    def _values(self, drawn: Tensor, probability: float, height: int, width: int) -> Tensor:
        """Turn uniform draws (B, 14) on the CPU into what is done: (B, 8), columns as `_DRAWS` names them.

        Shifts are whole pixels, each as likely; zoom is pixels of the source per pixel; rotation radians; the cut-out's
        centre a share of the side, far outside where there is none.
        """
        gates = drawn[:, _DRAWS:] < probability
        amounts = (2 * drawn[:, :6] - 1) * gates[:, [0, 1, 2, 2, 3, 4]]  # in [-1, 1), 0 = not done
        most = torch.tensor([round(self.translation * side) for side in (width, height)])
        return torch.cat(
            (
                amounts[:, :2] * torch.tensor([self.brightness, self.contrast]),
                torch.floor(amounts[:, 2:4] * (most + 0.5) + 0.5),
                1 / (1 + self.zoom * amounts[:, 4:5]),
                math.radians(self.rotation_deg) * amounts[:, 5:6],
                torch.where(gates[:, 5:], drawn[:, 6:8], -9.0),
            ),
            dim=1,
        )


class ADA(DiffAugment):
    """Do each transformation with a probability p that rises while D tells real images too surely, and falls else.

    r = E[sign(D(real))] says how surely: 0 where D cannot tell, 1 where it has learnt the training images by heart.
    p and the sums are buffers, so a checkpoint holds them.
    """

    p: Tensor
    sums: Tensor

    def __init__(
        self,
        *,
        brightness: float,
        contrast: float,
        translation: float,
        zoom: float,
        rotation_deg: float,
        cutout: float,
        target: float,
        ramp_images: int,
        every_steps: int,
        initial_p: float,
        max_p: float,
    ) -> None:
        """Take strengths as DiffAugment does, and how p follows r.

        Args:
            target: of r, in (0, 1); 0.6 in the paper.
            ramp_images: real images seen, over all processes, in which p can go from 0 to 1.
            every_steps: of D, between two changes of p; 4 in the paper.
            initial_p: in [0, max_p].
            max_p: from about 0.8 on augmentations leak into generated images (the paper's section 3).
        """
        super().__init__(
            brightness=brightness,
            contrast=contrast,
            translation=translation,
            zoom=zoom,
            rotation_deg=rotation_deg,
            cutout=cutout,
        )
        for name, value, fine, expected, mend in (
            ("target", target, 0 < target < 1, "between 0 and 1", 0.6),
            ("ramp_images", ramp_images, ramp_images >= 1, "at least 1", 100000),
            ("every_steps", every_steps, every_steps >= 1, "at least 1", 4),
            ("max_p", max_p, 0 <= max_p <= 1, "0 to 1", 0.8),
            ("initial_p", initial_p, 0 <= initial_p <= max_p, f"0 to max_p={max_p}", 0),
        ):
            if not fine:
                raise UserError(
                    f"gan_augment.{name}: got {value}, expected {expected}; set gan_augment.{name}={mend}"
                )
        self.target, self.ramp_images, self.every_steps, self.max_p = target, ramp_images, every_steps, max_p
        self.register_buffer("p", torch.tensor(float(initial_p)))
        self.register_buffer("sums", torch.zeros(3))  # since p changed: of signs, steps, images seen
        self._steps: int | None = 0  # sums[1], and below p, as known without asking the device; None = ask
        self._p: float | None = None
        self.register_load_state_dict_post_hook(_ask_again)  # type: ignore[no-untyped-call]  # not annotated by torch

    @property
    def probability(self) -> float:
        """Of each transformation, for each image: p now."""
        if self._p is None:
            self._p = float(self.p)
        return self._p

    def observe(self, real_logits: Tensor, images: int) -> None:
        """Take D's logits (B,) of augmented training images after a step; `images`: real ones it saw, all processes.

        On several processes give the logits of all, or their mean sign to `observe_sign`: the sign of a mean is another.
        """
        self.observe_sign(real_logits.detach().sign().mean(), images)

    def observe_sign(self, mean_sign: Tensor, images: int) -> None:
        """Take the mean sign in [-1, 1] of D's logits on real images; NaN counts as 0."""
        sign = mean_sign.nan_to_num(nan=0.0).to(self.sums)
        self.sums.add_(torch.stack((sign, torch.ones_like(sign), torch.full_like(sign, images))))
        self._steps = int(self.sums[1]) if self._steps is None else self._steps + 1
        if self._steps >= self.every_steps:
            signs, steps, seen = self.sums.tolist()
            step = math.copysign(seen / self.ramp_images, signs / steps - self.target)
            self.p.fill_(min(max(float(self.p) + step, 0.0), self.max_p))
            self.sums.zero_()
            self._steps, self._p = 0, None


def _ask_again(module: nn.Module, incompatible: object) -> None:
    """Forget what was known of buffers that have just been loaded."""
    del incompatible
    ada = cast(ADA, module)
    ada._steps = ada._p = None


def _expose(images: Tensor, shift: Tensor, contrast: Tensor) -> Tensor:
    """Return images whose gray values are those by 1 + contrast (B,) about their mean, plus shift (B,)."""
    factor, shift = (1 + contrast).view(-1, 1, 1, 1), shift.view(-1, 1, 1, 1)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return images * factor + (mean * (1 - factor) + shift)


def _sources(
    images: Tensor, shift_x: Tensor, shift_y: Tensor, scale: Tensor, angle: Tensor
) -> tuple[Tensor, Tensor]:
    """Return where each pixel comes from: rows and columns, float (B, H, W), some beyond the edge.

    shift_x, shift_y (B,): pixels to the right and down; scale (B,): pixels of the source per pixel; angle (B,): radians.
    """
    middle_y, middle_x = ((side - 1) / 2 for side in images.shape[2:])
    y, x = (torch.arange(side, device=images.device) for side in images.shape[2:])
    dy = (y - middle_y - shift_y.float().unsqueeze(1)).unsqueeze(2)
    dx = (x - middle_x - shift_x.float().unsqueeze(1)).unsqueeze(1)
    cosine = (scale.float() * angle.float().cos()).view(-1, 1, 1)
    sine = (scale.float() * angle.float().sin()).view(-1, 1, 1)
    return cosine * dy - sine * dx + middle_y, sine * dy + cosine * dx + middle_x


def _pick(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the pixels at whole rows and columns (B, H, W), those outside from the nearest edge.

    A gather, as it can be differentiated twice (R1 asks for it), which torch's grid_sample cannot.
    """
    channels, height, width = images.shape[1:]
    index = rows.long().clamp(0, height - 1) * width + columns.long().clamp(0, width - 1)
    index = index.flatten(1).unsqueeze(1).expand(-1, channels, -1)
    return images.flatten(2).gather(2, index).view(images.shape)


def _interpolate(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return images (B, C, H, W) at rows and columns (B, H, W), bilinear, the edge repeated outside."""
    top, left = rows.floor(), columns.floor()
    down = (rows - top).to(images.dtype).unsqueeze(1)
    right = (columns - left).to(images.dtype).unsqueeze(1)
    upper = torch.lerp(_pick(images, top, left), _pick(images, top, left + 1), right)
    lower = torch.lerp(_pick(images, top + 1, left), _pick(images, top + 1, left + 1), right)
    return torch.lerp(upper, lower, down)


def _cut_out(images: Tensor, share: float, centre_x: Tensor, centre_y: Tensor) -> Tensor:
    """Return images with a square of `share` of the side at mid-gray; centres (B,) are shares of the side."""
    height, width = images.shape[2:]
    y = (torch.arange(height, device=images.device) + 0.5) / height - centre_y.unsqueeze(1)
    x = (torch.arange(width, device=images.device) + 0.5) / width - centre_x.unsqueeze(1)
    inside = (y.abs() < share / 2).unsqueeze(2) & (x.abs() < share / 2).unsqueeze(1)
    return images.masked_fill(inside.unsqueeze(1), 0.0)
