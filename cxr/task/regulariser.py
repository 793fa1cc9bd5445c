"""What keeps a discriminator from being too sure of too few images: what it is shown, and what it is penalised for.

Everything here is off by default, costs nothing then, and works with any of our GANs. What is drawn is a function of
(seed, step), as everything in training is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from cxr.errors import UserError
from cxr.gan.augment import ADA, DiffAugment
from cxr.gan.latent import mix_seed
from cxr.loss.gan import Judge, r1

__all__ = ["Regulariser", "normalise_spectrum"]


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
        penalty: Callable[..., Tensor] | None,
        instance_noise: float,
        instance_noise_images: int | None,
        augment: DiffAugment | None,
    ) -> None:
        """Take what is wanted; 0, false and null are off.

        Args:
            spectral_norm: divide each weight of D by its largest singular value (Miyato et al. 2018).
            r1_gamma: weight of the squared gradient at real images (Mescheder et al. 2018), in `gamma / 2 * |∇D|²`.
            r1_every: batches from one R1 to the next, whose weight is as many times as high (Karras et al. 2020).
            penalty: of D's gradient between real and fake images, called as `cxr.loss.gan.gradient_penalty`.
            instance_noise: standard deviation of noise on what D sees, in units of images in [-1, 1].
            instance_noise_images: it falls linearly to 0 until D has seen as many; None: it stays.
            augment: of real and fake images alike.
        """
        super().__init__()
        for name, value in (
            ("r1_gamma", r1_gamma),
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
        self.r1_gamma, self.r1_every, self._penalty = r1_gamma, r1_every, penalty
        self.instance_noise, self.instance_noise_images = instance_noise, instance_noise_images
        self.augment = augment

    @property
    def changes_images(self) -> bool:
        """Whether D is shown anything but the images as they are."""
        return self.augment is not None or self.instance_noise > 0

    @property
    def penalises(self) -> bool:
        """Whether D's loss has a term on gradients."""
        return self.r1_gamma > 0 or self._penalty is not None

    def show(self, images: Tensor, *, seed: int, images_seen: int) -> Tensor:
        """Return what D is shown of images float (B, C, H, W) in [-1, 1]: augmented, then with noise; differentiable."""
        generator = torch.Generator().manual_seed(seed)
        if self.augment is not None:
            images = self.augment(images, generator)
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
            total = total + r1(judge, real, gamma=self.r1_gamma * self.r1_every)
        if self._penalty is not None:
            share = torch.rand((len(real), 1, 1, 1), generator=torch.Generator().manual_seed(seed))
            total = total + self._penalty(judge, real, fake, share.to(real.device))
        return total

    @property
    def adaptive(self) -> ADA | None:
        """The augmentation that wants to know what D says of real images."""
        return self.augment if isinstance(self.augment, ADA) else None


def normalise_spectrum(network: nn.Module, seed: int) -> None:
    """Divide the weight of each convolution and dense layer by its largest singular value, by power iteration.

    The vectors it starts from are drawn from `seed`; torch draws them from the global state, which is put back.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed(seed, "spectral norm"))
        for layer in list(network.modules()):
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                spectral_norm(layer)
