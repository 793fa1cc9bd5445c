"""Transfer learning: any timm network, frozen or not, under one of the papers' heads.

Heads:
    own       the network's own layers before its last one, which train or are frozen with it → dropout → dense.
              Under vgg16 its two dense layers of 4,096: the original of acrnet's baseline.
    linear    global average pool → dropout → dense. With dropout 0 that of `densenet14` (densenet121 or
              resnet50, frozen → pool → dense 14); also the field's usual choice.
    talukdar  conv 256 k3 → flatten → dense 1024 → dense 512 → dropout 0.2 → dense (Talukdar et al.).
              ReLU between (not stated). The convolution is padded ("same"; not stated): at 128 px
              InceptionV3 leaves 2 x 2 positions, on which an unpadded 3 x 3 kernel does not fit.
    covidgan_vgg16     flatten → dense 128, ReLU → dropout (rate not stated) → dense (Calabrese, Marabotto,
                       section 4). Under vgg16 at 224 px with 3 classes 17,926,467 parameters, 3,211,779 of the head.
    covidgan_resnet50  global average pool → dense 128, ReLU → dense 64, ReLU → dropout 0.5 → dense (their table 3).
Talukdar's networks in timm: inception_v3, resnet50, efficientnet_b0, vgg16, densenet201, legacy_xception.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cxr.classifier.base import Classifier, Init, initialise
from cxr.classifier.weights import create_body, load_local
from cxr.errors import UserError

__all__ = ["Backbone", "Head"]

STILL = (nn.AdaptiveAvgPool2d, nn.Flatten)  # layers of a head without weights and chance

Head = Literal["own", "linear", "talukdar", "covidgan_vgg16", "covidgan_resnet50"]


class Backbone(Classifier):
    """A timm network without its own classifier, and a head.

    Frozen means: no gradient, no graph, and evaluation mode whatever `.train()` says, so that batch
    statistics stay as they were learnt. What the body makes of an image is then always the same, and
    `encode` of it is worth keeping (cxr.callback.frozen_features). Images arrive in [-1, 1]; the mean and standard deviation
    that the weights were trained with are applied inside.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        *,
        name: str,
        image_size_px: int,
        channels: Literal[1, 3],
        n_outputs: int,
        head: Head,
        dropout: float,
        init: Init,
        frozen: bool,
        pretrained: bool,
        checkpoint_path: Path | None,
    ) -> None:
        super().__init__()
        self.image_size_px, self.channels, self.n_outputs = image_size_px, channels, n_outputs
        self.name, self.frozen, self.own = name, frozen, head == "own"
        download = pretrained and checkpoint_path is None
        self.body: Any = create_body(name, image_size_px, channels, download)
        self._nhwc = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        mean, std = _normalisation(self.body, channels)
        # ((x + 1) / 2 - mean) / std, as one multiplication and one addition
        self.register_buffer("scale", 0.5 / std, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)
        self.maps = nn.Identity()  # where heat maps hook in: outside the frozen part, after in-place ReLUs
        self.last_conv = "maps"
        self.head = _make_head(head, name, self._settle(), n_outputs, dropout)
        self._n_still = next((i for i, m in enumerate(self.head) if not isinstance(m, STILL)), len(self.head))
        initialise(self.head, init)
        self.weights = "pretrained" if download else "random"
        if checkpoint_path is not None:
            load_local(self.body, Path(checkpoint_path), channels)
            self.weights = str(checkpoint_path)
        self.body.requires_grad_(not frozen)
        self.train()

    def train(self, mode: bool = True) -> Backbone:
        """Switch the head, and the body unless it is frozen."""
        super().train(mode)
        if self.frozen:
            self.body.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        """Map images (B, channels, H, W) in [-1, 1] to maps (B, C, h, w), or (B, C) where it has tokens."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            x: Tensor = self.body.forward_features(images * self.scale + self.shift)
            if x.ndim == 4 and self._nhwc:
                x = x.permute(0, 3, 1, 2)
            if x.ndim == 3:
                x = self.body.forward_head(x, pre_logits=True)
        maps: Tensor = self.maps(x)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, channels, H, W) in [-1, 1] to logits (B, n_outputs)."""
        return self.decode(self.encode(images))

    def encode(self, images: Tensor) -> Tensor:
        """Map images (B, channels, H, W) in [-1, 1] to what learns last: maps (B, C, h, w), pooled (B, C) if they can be.

        Pooling and flattening learn nothing and draw nothing, and what is pooled is h x w times smaller.
        """
        x = self._before_head(self.features(images))
        for layer in list(self.head)[: self._n_still]:
            x = layer(x)
        return x

    def decode(self, features: Tensor) -> Tensor:
        """Map what `encode` returns to logits (B, n_outputs)."""
        x = features
        for layer in list(self.head)[self._n_still :]:
            x = layer(x)
        return x

    def _before_head(self, maps: Tensor) -> Tensor:
        """Apply what the network itself has between its maps and its last layer, for the head `own`."""
        if not self.own or maps.ndim != 4:
            return maps
        x: Tensor = self.body.forward_head(maps.permute(0, 2, 3, 1) if self._nhwc else maps, pre_logits=True)
        return x

    def _settle(self) -> torch.Size:
        """Return the shape of what the head takes of one image; drop the body's parts that made no contribution.

        Without it VGG16 would carry its 120 M dense parameters, unused, into every checkpoint.
        """
        called: set[nn.Module] = set()

        def note(module: nn.Module, *_: object) -> None:
            called.add(module)

        handles = [m.register_forward_hook(note) for m in self.body.modules()]
        self.eval()
        with torch.no_grad():
            image = torch.zeros(1, self.channels, self.image_size_px, self.image_size_px)
            shape = self._before_head(self.features(image)).shape
        for handle in handles:
            handle.remove()
        for child_name, child in list(self.body.named_children()):
            if called.isdisjoint(child.modules()):
                setattr(self.body, child_name, nn.Identity())
        return shape[1:]


def _normalisation(body: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (channels, 1, 1) for images in [0, 1], as the weights know them."""
    config: Any = getattr(body, "pretrained_cfg", None) or {}
    values = [torch.tensor(config.get(key) or (0.5, 0.5, 0.5)).view(-1, 1, 1) for key in ("mean", "std")]
    mean, std = values if channels == 3 else [v.mean(dim=0, keepdim=True) for v in values]
    return mean, std


def _make_head(head: Head, name: str, shape: torch.Size, n_outputs: int, dropout: float) -> nn.Sequential:
    """Return the head for features of `shape` (C, h, w) or (C,)."""
    if not 0.0 <= dropout < 1.0:
        raise UserError(f"classifier.dropout: got {dropout}, expected [0, 1); set classifier.dropout=0.2")
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if len(shape) == 3 else []
    if head == "linear":
        return nn.Sequential(*pool, nn.Dropout(dropout), nn.Linear(shape[0], n_outputs))
    if head == "own":
        return nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(shape.numel(), n_outputs))
    if head == "covidgan_vgg16":
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(shape.numel(), 128),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(128, n_outputs),
        )
    if head == "covidgan_resnet50":
        return nn.Sequential(
            *pool,
            nn.Linear(shape[0], 128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(64, n_outputs),
        )
    if len(shape) != 3:
        raise UserError(
            f"classifier.head: talukdar needs a feature map, and {name} has none; set classifier.head=linear"
        )
    return nn.Sequential(
        nn.Conv2d(shape[0], 256, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256 * shape[1] * shape[2], 1024),
        nn.ReLU(),
        nn.Linear(1024, 512),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(512, n_outputs),
    )
