"""What keeps a discriminator from being too sure of too few images: what it is shown, and what it is penalised for.

Everything here is off by default, costs nothing then, and works with any of our GANs. What is drawn is a function of
(seed, step), as everything in training is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from cxr.errors import UserError
from cxr.gan.latent import mix_seed

__all__ = ["Regulariser", "normalise_spectrum"]

Judge = Callable[[Tensor], Tensor]


class _Augment(Protocol):
    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor: ...


class Regulariser(nn.Module):
    """Spectral norm, augmentation, instance noise, R1 and gradient penalty of one training.

    Its state (of an adaptive augmentation) travels in the task's checkpoint.
    """

    def __init__(
        self,
        *,
        spectral_norm: bool,
        r1_gamma: float,
        r1_every: int,
        gradient_penalty: float,
        instance_noise: float,
        instance_noise_images: int | None,
        augment: nn.Module | None,
    ) -> None:
        """Take what is wanted; 0, false and null are off.

        Args:
            spectral_norm: divide each weight of D by its largest singular value (Miyato et al. 2018).
            r1_gamma: weight of the squared gradient at real images (Mescheder et al. 2018), in `gamma / 2 * |∇D|²`.
            r1_every: batches from one R1 to the next, whose weight is as many times as high (Karras et al. 2020).
            gradient_penalty: weight of `(|∇D| - 1)²` between real and fake images (Gulrajani et al. 2017); 10 there.
            instance_noise: standard deviation of noise on what D sees, in units of images in [-1, 1].
            instance_noise_images: it falls linearly to 0 until D has seen as many; None: it stays.
            augment: called as augment(images, generator) on real and fake images alike.
        """
        super().__init__()
        for name, value in (
            ("r1_gamma", r1_gamma),
            ("gradient_penalty", gradient_penalty),
            ("instance_noise", instance_noise),
        ):
            if value < 0:
                raise UserError(
                    f"task.regulariser.{name}: got {value:g}, expected 0 (off) or more; set task.regulariser.{name}=0"
                )
        for name, count in (("r1_every", r1_every), ("instance_noise_images", instance_noise_images)):
            if count is not None and count < 1:
                raise UserError(
                    f"task.regulariser.{name}: got {count}, expected 1 or more; set task.regulariser.{name}=16"
                )
        self.spectral_norm = spectral_norm
        self.r1_gamma, self.r1_every, self.gradient_penalty = r1_gamma, r1_every, gradient_penalty
        self.instance_noise, self.instance_noise_images = instance_noise, instance_noise_images
        self.augment = augment

    @property
    def changes_images(self) -> bool:
        """Whether D is shown anything but the images as they are."""
        return self.augment is not None or self.instance_noise > 0

    @property
    def penalises(self) -> bool:
        """Whether D's loss has a term on gradients."""
        return self.r1_gamma > 0 or self.gradient_penalty > 0

    def show(self, images: Tensor, *, seed: int, images_seen: int) -> Tensor:
        """Return what D is shown of images float (B, C, H, W) in [-1, 1]: augmented, then with noise; differentiable."""
        generator = torch.Generator().manual_seed(seed)
        if self.augment is not None:
            images = cast(_Augment, self.augment)(images, generator)
        std = self.instance_noise
        if self.instance_noise_images is not None:
            std *= max(0.0, 1.0 - images_seen / self.instance_noise_images)
        if std > 0:
            noise = torch.randn(images.shape, generator=generator).to(images.device, non_blocking=True)
            images = images + std * noise
        return images

    def penalty(self, judge: Judge, real: Tensor, fake: Tensor, *, step: int, seed: int) -> Tensor:
        """Return the penalty of batch number `step` (from 0), a scalar; 0 where none is due.

        judge: images (B, C, H, W) → logits (B,). real, fake: as D was shown them, of equal number.
        R1 is of the images after augmentation: a warp's second derivative is neither needed nor everywhere there.
        """
        total = torch.zeros((), device=real.device)
        if self.r1_gamma > 0 and step % self.r1_every == 0:
            squared = _gradient(judge, real).square().sum(dim=(1, 2, 3)).mean()
            total = total + 0.5 * self.r1_gamma * self.r1_every * squared
        if self.gradient_penalty > 0:
            share = torch.rand((len(real), 1, 1, 1), generator=torch.Generator().manual_seed(seed))
            share = share.to(real.device)
            norm = (_gradient(judge, fake.lerp(real, share)).square().sum(dim=(1, 2, 3)) + 1e-12).sqrt()
            total = total + self.gradient_penalty * (norm - 1.0).square().mean()
        return total

    def observe(self, real_logits: Tensor, images: int) -> None:
        """Tell an adaptive augmentation what D says of the real images it was shown; images: over all processes."""
        if hasattr(self.augment, "observe"):
            cast(Any, self.augment).observe(real_logits, images)

    @property
    def observes(self) -> bool:
        """Whether `observe` does anything."""
        return hasattr(self.augment, "observe")


def _gradient(judge: Judge, images: Tensor) -> Tensor:
    """Return d(sum of logits) / d(images), float32 and itself differentiable: 16 bits would lose small gradients."""
    images = images.detach().float().requires_grad_()
    with torch.autocast(images.device.type, enabled=False):
        (found,) = torch.autograd.grad(judge(images).sum(), images, create_graph=True)
    return found


def normalise_spectrum(network: nn.Module, seed: int) -> None:
    """Divide the weight of each convolution and dense layer by its largest singular value, by power iteration.

    The vectors it starts from are drawn from `seed`; torch draws them from the global state, which is put back.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed(seed, "spectral norm"))
        for layer in list(network.modules()):
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                spectral_norm(layer)
