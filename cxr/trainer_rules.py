"""Rules on how a model is trained: processes, strategies, steps. See `cxr.rules`, which names them."""

from __future__ import annotations

from typing import Any

__all__ = ["TRAINER_RULES", "kind", "processes"]

Config = dict[str, Any]
GAN_STRATEGY = "ddp_find_unused_parameters_true"


def kind(config: Config, group: str) -> str:
    """Return the last word of a group's target ('GANTask'), or '' where there is none."""
    node = config.get(group)
    return str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, dict) else ""


def processes(config: Config) -> int | None:
    """Return how many processes train together; None where only the machine knows (`auto` on GPUs)."""
    trainer = config.get("trainer") or {}
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    if devices == "auto" and trainer.get("accelerator") == "cpu":
        devices = 1
    if isinstance(devices, list):
        devices = len(devices)
    return devices * nodes if isinstance(devices, int) and isinstance(nodes, int) else None


def devices_are_named(config: Config) -> str | None:
    """Devices are a number, a list of GPUs, or auto; machines are a number."""
    trainer = config.get("trainer") or {}
    devices, nodes = trainer.get("devices", 1), trainer.get("num_nodes", 1)
    if isinstance(devices, int) and not isinstance(devices, bool) and devices < 1:
        return f"trainer.devices: got {devices}, expected 1 or more, a list of GPUs, or auto for all; set trainer.devices=auto"
    if isinstance(devices, list) and (not devices or len(set(devices)) < len(devices)):
        return (
            f"trainer.devices: got {devices}, expected different GPUs, each once; set trainer.devices=[0,1]"
        )
    if isinstance(devices, list) and trainer.get("accelerator") == "cpu":
        return (f"trainer.devices: {devices} names GPUs, but trainer.accelerator=cpu; "
                f"set trainer.devices={len(devices)} (processes) or trainer.accelerator=gpu")  # fmt: skip
    if isinstance(nodes, int) and nodes < 1:
        return f"trainer.num_nodes: got {nodes}, expected 1 or more machines; set trainer.num_nodes=1"
    return None


def batch_is_shared_evenly(config: Config) -> str | None:
    """`loader.batch_size` counts the images of all processes, and each takes as many."""
    n, size = processes(config), (config.get("loader") or {}).get("batch_size")
    if n is None or n < 1 or not isinstance(size, int) or not size % n:
        return None
    return (f"loader.batch_size: {size} images a step are not shared evenly by {n} processes "
            f"(trainer.devices x trainer.num_nodes); set loader.batch_size={size - size % n + n}")  # fmt: skip


def explicit_gan_strategy(config: Config) -> str | None:
    """Each backward pass of a GAN leaves one network out, which plain ddp refuses; `auto` would pick that unasked."""
    strategy = (config.get("trainer") or {}).get("strategy", "auto")
    if not kind(config, "task").endswith("GANTask"):
        return None
    if strategy == "ddp":
        return (f"trainer.strategy: ddp wants every parameter in every backward pass, and a GAN's use one network "
                f"each; set trainer.strategy={GAN_STRATEGY}")  # fmt: skip
    if strategy in ("auto", None) and processes(config) != 1:
        many = processes(config) or "possibly several"
        return f"trainer.strategy: a GAN on {many} devices needs an explicit strategy; set trainer.strategy={GAN_STRATEGY}"
    return None


def gan_uses_its_own_accumulation(config: Config) -> str | None:
    """Lightning raises for accumulation or clipping under manual optimisation; the GAN task has its own."""
    trainer = config.get("trainer") or {}
    if not kind(config, "task").endswith("GANTask"):
        return None
    if (trainer.get("accumulate_grad_batches") or 1) != 1:
        return ("trainer.accumulate_grad_batches: a GAN accumulates by itself; "
                "set trainer.accumulate_grad_batches=1 task.accumulate=…")  # fmt: skip
    if trainer.get("gradient_clip_val") is not None:
        return "trainer.gradient_clip_val: a GAN clips by itself; set trainer.gradient_clip_val=null task.clip_grad_norm=…"
    return None


def clipping_needs_unscaled_gradients(config: Config) -> str | None:
    """A fused optimiser divides the loss scale out inside its step, too late for Lightning to clip."""
    trainer = config.get("trainer") or {}
    if kind(config, "task").endswith("GANTask") or trainer.get("precision") != "16-mixed":
        return None
    where = "optimizer" if config.get("optimizer") else "task.optimizer"
    optimizer = config.get("optimizer") or (config.get("task") or {}).get("optimizer") or {}
    if trainer.get("gradient_clip_val") is not None and optimizer.get("fused"):
        return (f"{where}.fused: a fused optimiser cannot clip with trainer.precision=16-mixed; "
                f"set {where}.fused=false")  # fmt: skip
    return None


def feature_views(config: Config) -> str | None:
    """Views are kept of augmented images, for a backbone that does not learn."""
    views = config.get("features")
    if not isinstance(views, int) or isinstance(views, bool):
        return None
    if views < 1:
        return f"features: got {views}, expected 1 or more views, auto or off; set features=auto"
    if not (config.get("classifier") or {}).get("frozen"):
        return (f"features: {views} views are kept for a frozen backbone, and this network learns; "
                "set features=auto, or classifier=backbone classifier.frozen=true")  # fmt: skip
    if kind(config, "augment") == "none":
        return f"features: {views} views of images that are not augmented are all the same; set features=auto, or augment=…"
    return None


TRAINER_RULES = [
    devices_are_named,
    batch_is_shared_evenly,
    explicit_gan_strategy,
    gan_uses_its_own_accumulation,
    clipping_needs_unscaled_gradients,
    feature_views,
]
