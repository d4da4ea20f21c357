"""The SGLang engine: one serving engine on one GPU (or several), a shard's variants in one batch."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.base import Completion, Engine, EngineInfo, OnCompletion, Row, Variant
from es_ray.engines.sglang import compat, lifecycle, requests
from es_ray.engines.sglang.arguments import adapter_config, adapter_name, server_arguments
from es_ray.engines.sglang.ipc.scheduler_client import SchedulerClient, group_arrays, noise_values
from es_ray.engines.sglang.ipc.scheduler_host import Options
from es_ray.engines.sglang.ipc.shm_channel import Message
from es_ray.engines.sglang.lora.pool_layout import fused_name
from es_ray.engines.sglang.probe import probe
from es_ray.engines.sglang.slots import SlotOf, adapter_of, adapters_of, batches, groups
from es_ray.errors import EvaluationError, RunError
from es_ray.evolution.perturbation import Perturbation, Vector
from es_ray.experiment import Experiment

log = logging.getLogger(__name__)

SLICE = 1 << 20
"""Most entries of a noise sum in one call to the scheduler: about a millisecond on a GPU."""


class SGLangEngine(Engine):
    """Adapter slots are registered once; a generation is one call that writes them, then one `generate`."""

    def __init__(self, experiment: Experiment, probed: bool = True) -> None:
        config = experiment.config
        root = compat.package()
        compat.check(root)
        layout = self._layout = experiment.layout
        for module in layout.modules:
            fused_name(module)
        self.slots = config.engine.shard
        self.stop_ids = experiment.source.stop_ids()
        self.max_new_tokens = config.task.max_new_tokens
        self.ignore_stop = False
        """Run every row to its full length, for benchmarks."""
        arguments = server_arguments(
            config, experiment.source, experiment.workload.rows, compat.argument_names(root)
        )
        ranks = config.engine.tensor_parallel
        self._log_file = lifecycle.log_file()
        self._client = SchedulerClient(
            ranks,
            layout.size,
            members=max(config.evolution.population, self.slots),
            segments=2 * len(layout.modules) + 1,
            reply=min(layout.size, SLICE),
        )
        options = Options(layout, ranks, tuple(sorted(self.stop_ids)), self._log_file)
        try:
            self._engine = self._client.engine = lifecycle.start(arguments, options)
        except BaseException:
            self._client.close()
            raise
        self._watchdog = lifecycle.ProcessWatchdog(self._engine.get_all_child_pids(), self._log_file)
        self.write_seconds: float | None = None
        """Seconds that the last writing of adapters took inside the scheduler."""
        self.digests: dict[Variant, int] = {}
        """The hash of each adapter's weights in the last call."""
        try:
            self._register(adapter_config(config))
            self.info = self._describe()
            if probed:
                probe(self, self.slots, experiment)
            # exclude permanent objects from garbage collection, which took 0.7 s of every 2500 requests
            self._engine.freeze_gc()
        except BaseException:
            self.close()
            raise

    def generate(
        self,
        centres: Sequence[Vector],
        perturbation: Perturbation,
        rows: Sequence[Row],
        *,
        log_probs: bool = False,
        on_completion: OnCompletion | None = None,
    ) -> list[Completion]:
        """Completions of the rows, in their order; in one batch unless there are too few slots.

        on_completion is called for a batch's rows when all of them are complete: SGLang returns them
        together. Greedy rows, rows sampled with top_p 1 and rows sampled with less run one kind after the
        other. SGLang uses the seed of a sampled row only with `engine.deterministic`: without it samples are
        not repeatable.
        """
        completions: dict[int, Completion] = {}
        self.digests = {}
        for numbers in batches(rows, self.slots):
            batch = [rows[number] for number in numbers]
            slot_of = self.write_adapters(centres, perturbation, batch)
            outputs = self._outputs(batch, slot_of, log_probs)
            if not self._finite():
                raise EvaluationError(f"{self._culprit(batch, slot_of)}: the model's logits are not finite")
            ends = frozenset() if self.ignore_stop else self.stop_ids
            for number, row, output in zip(numbers, batch, outputs, strict=True):
                requests.check_finished(output, str(row.variant))
                completions[number] = requests.completion(output, ends, log_probs)
            if on_completion is not None:
                for number in numbers:
                    on_completion(number, completions[number])
        digest = sum((adapter.member + 3) * value for adapter, value in self.digests.items()) & 0xFFFFFFFF
        log.info("%d adapters written, hash %08x", len(self.digests), digest)
        return [completions[number] for number in range(len(rows))]

    def log_probs(
        self,
        centres: Sequence[Vector],
        perturbation: Perturbation,
        rows: Sequence[Row],
        continuations: Sequence[Sequence[int]],
    ) -> list[NDArray[np.float32]]:
        """Log-probabilities of given tokens after each row's prompt, which has at least one token.

        SGLang reads both as one prompt and generates one more token: all must fit into the model's positions.
        """
        found: dict[int, NDArray[np.float32]] = {}
        self.digests = {}
        extended = [
            row._replace(prompt_ids=(*row.prompt_ids, *continuation), sampling=None)
            for row, continuation in zip(rows, continuations, strict=True)
        ]
        for numbers in batches(rows, self.slots):
            batch = [extended[number] for number in numbers]
            slot_of = self.write_adapters(centres, perturbation, batch)
            # SGLang returns none for the first token from there on, so that is the prompt's last token
            starts = [len(rows[number].prompt_ids) - 1 for number in numbers]
            outputs = self.generate_raw(batch, slot_of, 1, return_logprob=True, logprob_start_len=starts)
            for number, row, output in zip(numbers, batch, outputs, strict=True):
                requests.check_finished(output, str(row.variant))
                found[number] = requests.input_log_probs(output, len(continuations[number]))
                if not np.isfinite(found[number]).all():
                    raise EvaluationError(f"{row.variant}: log-probabilities are not finite")
        return [found[number] for number in range(len(rows))]

    def noise_sum(
        self,
        perturbation: Perturbation,
        generation: int,
        advantages: NDArray[np.float64],
        start: int,
        stop: int,
    ) -> Vector:
        """Entries [start, stop) of `Perturbation.noise_sum` on the GPU: the same bytes for any slicing."""
        found = np.empty(stop - start, dtype=np.float32)
        noise = noise_values(perturbation, generation)
        arrays = {"advantages": advantages.astype(np.float32)}
        for low in range(start, stop, SLICE):
            high = min(low + SLICE, stop)
            answers = self._client.call("noise_sum", Message(noise | {"start": low, "stop": high}, arrays))
            found[low - start : high - start] = answers[0].arrays["noise_sum"]
        return found

    def write_adapters(
        self, centres: Sequence[Vector], perturbation: Perturbation, rows: Sequence[Row]
    ) -> dict[Variant, int]:
        """Write the rows' adapters into slots, in order of their first rows; returns the slot of each.

        One call to the scheduler for each centre and generation among them.
        """
        slot_of = {adapter: slot for slot, adapter in enumerate(adapters_of(rows))}
        if not slot_of:
            self._finite()  # forgets the logits of earlier calls, as writing does
        self.write_seconds = 0.0
        for group in groups(slot_of):
            noise = noise_values(perturbation, group.generation)
            values = noise | self._client.centre_values(centres[group.centre])
            arrays = group_arrays(group, perturbation.scale(group.generation))
            answers = self._client.call("write_adapters", Message(values, arrays))
            self.write_seconds += max(answer.values["seconds"] for answer in answers)
            totals = np.sum([answer.arrays["digests"] for answer in answers], axis=0)
            for adapter, total in zip(group.adapters, totals, strict=True):
                self.digests[adapter] = int(total) & 0xFFFFFFFF
        return slot_of

    def generate_raw(
        self, rows: Sequence[Row], slot_of: SlotOf, new_tokens: int | None = None, **options: Any
    ) -> list[dict[str, Any]]:
        """SGLang's outputs of the rows, with whatever lies in the slots; options are `generate`'s."""
        common: dict[str, Any] = {"max_new_tokens": new_tokens or self.max_new_tokens}
        if self.ignore_stop:
            common["ignore_eos"] = True
        else:
            common["stop_token_ids"] = sorted(self.stop_ids)
        adapters = [adapter_of(row.variant) for row in rows]
        return self._engine.generate(
            input_ids=[list(row.prompt_ids) for row in rows],
            sampling_params=requests.sampling_params(rows, common),
            lora_path=[None if a is None else adapter_name(slot_of[a]) for a in adapters],
            **options,
        )

    def close(self) -> None:
        """Stop SGLang's processes and wait until their GPU memory is free."""
        self._watchdog.stop()
        self._client.close()  # first: SGLang's shutdown ends every child, Python's own helpers among them
        self._engine.shutdown()

    def _outputs(self, rows: Sequence[Row], slot_of: SlotOf, log_probs: bool = False) -> list[dict[str, Any]]:
        """SGLang's outputs of the rows, with a call for each way of sampling among them."""
        options = (
            {"return_logprob": True, "logprob_start_len": -1} if log_probs else {}
        )  # -1: none of the input's
        outputs: dict[int, dict[str, Any]] = {}
        for numbers in requests.by_sampler(rows):
            mine = self.generate_raw([rows[number] for number in numbers], slot_of, **options)
            outputs.update(zip(numbers, mine, strict=True))
        return [outputs[number] for number in range(len(rows))]

    def _finite(self) -> bool:
        """Whether all logits since the last call of this or of `write_adapters` were finite."""
        return bool(self._client.call("finite")[0].values["finite"])

    def _culprit(self, rows: Sequence[Row], slot_of: SlotOf) -> str:
        """The first variant whose rows alone give logits that are not finite."""
        for variant in dict.fromkeys(row.variant for row in rows):
            self._outputs([row for row in rows if row.variant == variant], slot_of)
            if not self._finite():
                return str(variant)
        return "a variant of this batch"

    def _register(self, config: dict[str, Any]) -> None:
        """An empty adapter for each slot: what it holds is written in place later."""
        for slot in range(self.slots):
            result = self._engine.load_lora_adapter_from_tensors(adapter_name(slot), {}, config)
            if not result.success:
                raise RunError(f"SGLang did not register adapter slot {slot}: {result.error_message}")

    def _describe(self) -> EngineInfo:
        answers = self._client.call("describe")
        sums = np.sum([answer.arrays["abs_sums"] for answer in answers], axis=0)
        squares = np.sum([answer.arrays["square_sums"] for answer in answers], axis=0)
        entries = np.sum([answer.arrays["entries"] for answer in answers], axis=0)
        # not sqrt(squares): ranks may hold copies of the same rows
        sizes = [m.in_features * m.out_features for m in self._layout.modules]
        return EngineInfo(
            mean_abs=tuple(float(value) for value in sums / entries),
            parameters=sum(answer.values["parameters"] for answer in answers),
            device=answers[0].values["device"],
            dtype=answers[0].values["dtype"],
            norms=tuple(np.sqrt(squares / entries * sizes).tolist()),
        )
