"""The scheduler process's side of es-ray's calls."""

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from es_ray.engines.sglang.arguments import adapter_name
from es_ray.engines.sglang.finite_logits import logits_check
from es_ray.engines.sglang.ipc.adapted_modules import AdaptedModules
from es_ray.engines.sglang.ipc.merged_host import ATTRIBUTE, MergedHost, merged_weights
from es_ray.engines.sglang.ipc.shm_channel import Message, ReplyChannel, ShmChannel
from es_ray.engines.sglang.ipc.shm_vector import ShmVector
from es_ray.engines.sglang.lora.pool_layout import Buffer, extents
from es_ray.engines.sglang.lora.pool_writer import PoolWriter
from es_ray.engines.weight_sums import abs_sum, square_sum
from es_ray.evolution.noise import Noise
from es_ray.lora.layout import LoraLayout

log = logging.getLogger(__name__)

_BUSY = "busy"


@dataclass(frozen=True)
class Options:
    """What the scheduler's process needs at its start.

    log_file: where its output goes. split_tokens: those of a split of the attention under
    `engine.deterministic`, None without it.
    """

    layout: LoraLayout
    ranks: int
    log_file: str
    split_tokens: int | None = None


class Busy(Exception):  # noqa: N818 - the caller retries
    """The scheduler is not idle yet."""


class SchedulerHost:
    """Answers es-ray's calls in one scheduler process, possibly one of several tensor parallel ranks."""

    def __init__(self, scheduler: Any, rank: int, options: Options) -> None:
        self._scheduler = scheduler
        self._rank = rank
        self._ranks = options.ranks
        self._layout = options.layout
        runner = scheduler.tp_worker.model_runner
        self._model = runner.model
        self._manager = runner.lora_manager
        scheduler.model_config.hf_eos_token_id = set()  # a request ends at its own stop_token_ids alone
        self._modules = AdaptedModules(self._manager, options.layout)
        self._merged: MergedHost | None = None
        self._shared: dict[str, Any] = {}
        self._theta: Tensor | None = None
        self._theta_version = 0
        self._writer: PoolWriter | None = None

    def call(self, what: str, number: int, request: str, checksum: int, reply: str) -> None:
        """Handle a request in one channel and answer in another; failures are reported in the answer."""
        answer = self._opened(reply, lambda name: ReplyChannel.open(name, self._ranks))
        try:
            message = self._opened(request, ShmChannel.open).read(checksum)
            result = getattr(self, f"do_{what}")(message)
        except Busy:
            result = Message({"error": _BUSY})
        except Exception as error:
            log.error("es-ray: %s failed: %s", what, traceback.format_exc())
            result = Message({"error": f"{type(error).__name__}: {error}"})
        answer.write(self._rank, number, result)

    def do_describe(self, _: Message) -> Message:
        """Describe the engine: sums over the adapted modules' weights, entries, parameters, device, dtype."""
        parts = [part.weight for part in self._modules.weights()]
        return Message(
            {
                "parameters": sum(parameter.numel() for parameter in self._model.parameters()),
                "device": torch.cuda.get_device_name() if self._device.type == "cuda" else "cpu",
                "dtype": str(self._manager.dtype).removeprefix("torch."),
            },
            {
                "abs_sums": np.array([abs_sum(part) for part in parts], dtype=np.float64),
                "square_sums": np.array([square_sum(part) for part in parts], dtype=np.float64),
                "entries": np.array([part.numel() for part in parts], dtype=np.int64),
            },
        )

    def do_write_adapters(self, message: Message) -> Message:
        """Write the message's members, of one centre and generation, into their adapter slots.

        `fresh` members have no centre. Returns their digests, and the seconds it took.
        """
        started = time.perf_counter()
        if not self._scheduler.flush_cache(empty_cache=False):
            raise Busy
        arrays, values = message.arrays, message.values
        slots = self._pool_slots(arrays["slots"].tolist())
        theta = None if values["fresh"] else self._load_theta(message)
        writer = self._pool_writer()
        writer.write_adapters(
            theta,
            self._sigma(message),
            _noise(values),
            values["generation"],
            arrays["members"].tolist(),
            slots,
            arrays["factors"].tolist(),
        )
        digests = writer.digests(slots)
        self._synchronize()  # the forward pass runs on another stream
        logits_check.take_result()
        return Message(
            {"seconds": time.perf_counter() - started}, {"digests": np.array(digests, dtype=np.int64)}
        )

    def do_noise_sum(self, message: Message) -> Message:
        """Entries [start, stop) of the sum over members of advantage * noise, from the first rank."""
        if self._rank != 0:
            return Message()
        values = message.values
        weights = torch.from_numpy(message.arrays["advantages"]).to(self._device)
        total = self._pool_writer().weighted_sum(
            _noise(values), values["generation"], weights, values["start"], values["stop"]
        )
        return Message(arrays={"noise_sum": total.cpu().numpy()})

    def do_merged(self, message: Message) -> Message:
        """A step of form `merged`; see MergedHost."""
        if self._merged is None:
            weights = getattr(self._manager, ATTRIBUTE, None)
            self._merged = MergedHost(
                weights or merged_weights(self._modules, self._layout), self._layout, self._synchronize
            )
        serves = message.values["step"] == "write" or message.values.get("serve", False)
        if serves and not self._scheduler.flush_cache(empty_cache=False):
            raise Busy
        return self._merged.answer(message)

    def do_finite(self, _: Message) -> Message:
        """Whether all logits since adapters were last written, or the last such call, were finite."""
        self._synchronize()
        return Message({"finite": logits_check.take_result()})

    def _opened(self, name: str, open_: Callable[[str], Any]) -> Any:
        """Shared memory by name, opened once."""
        if name not in self._shared:
            self._shared[name] = open_(name)
        return self._shared[name]

    def _pool_writer(self) -> PoolWriter:
        if self._writer is None:
            pool = self._manager.memory_pool
            buffers = {}
            for fused, layer in self._modules.slices:
                buffers[Buffer("A", fused, layer)] = pool.A_buffer[fused][layer]
                buffers[Buffer("B", fused, layer)] = pool.B_buffer[fused][layer]
            found = extents(self._layout, self._modules.slices)
            self._writer = PoolWriter(found, buffers, triton=next(iter(buffers.values())).is_cuda)
        return self._writer

    def _pool_slots(self, slots: Sequence[int]) -> list[int]:
        """The pool's slots of some of our adapters, after loading all of ours into the pool."""
        ids = {ref.lora_name: lora_id for lora_id, ref in self._manager.lora_refs.items()}
        self._manager.fetch_new_loras({None, *ids.values()})
        slot_of = self._manager.memory_pool.uid_to_buffer_id
        return [slot_of[ids[adapter_name(slot)]] for slot in slots]

    def _load_theta(self, message: Message) -> Tensor:
        values = message.values
        if self._theta is None or values["theta_version"] != self._theta_version:
            shared = self._opened(values["theta"], lambda name: ShmVector.open(name, self._layout.size))
            self._theta = shared.read(values["theta_checksum"], self._device)
            self._theta_version = values["theta_version"]
        return self._theta

    def _sigma(self, message: Message) -> Tensor:
        ends = torch.from_numpy(np.diff(message.arrays["sigma_ends"], prepend=0))
        values = torch.from_numpy(message.arrays["sigma_values"]).to(self._device)
        return torch.repeat_interleave(values, ends.to(self._device), output_size=self._layout.size)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device


def _noise(values: Any) -> Noise:
    return Noise(int(values["seed"]), values["antithetic"])
