"""The SGLang engine: one serving engine on one GPU (or several), a shard's variants in one batch."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.base import Completion, Engine, EngineInfo, OnCompletion, Row, Variant
from es_ray.engines.merged_centre import MergedCentre
from es_ray.engines.sglang import compat, lifecycle, parts, requests
from es_ray.engines.sglang.arguments import adapter_config, adapter_name, server_arguments
from es_ray.engines.sglang.deterministic import split_tokens
from es_ray.engines.sglang.finished_requests import FinishedRequests
from es_ray.engines.sglang.ipc.merged_client import SchedulerWeights, most_updates
from es_ray.engines.sglang.ipc.scheduler_client import SchedulerClient, group_arrays, noise_values
from es_ray.engines.sglang.ipc.scheduler_host import Options
from es_ray.engines.sglang.ipc.shm_channel import Message
from es_ray.engines.sglang.lora.pool_layout import fused_name
from es_ray.engines.sglang.probe import probe
from es_ray.engines.sglang.rows_at_once import rows_at_once
from es_ray.engines.sglang.slots import SlotOf, adapters_of, batches, groups, without_centre
from es_ray.errors import EvaluationError, RunError
from es_ray.evolution.perturbation import Perturbation, Vector
from es_ray.experiment import Experiment

log = logging.getLogger(__name__)

SLICE = 1 << 22
"""Most entries of a noise sum in one call to the scheduler: 16 MB of shared memory."""


class SGLangEngine(Engine):
    """Adapter slots are registered once; a generation is one call that writes them, then one `generate`."""

    def __init__(self, experiment: Experiment, probed: bool = True) -> None:
        config = experiment.config
        root = compat.package()
        compat.check(root)
        layout = experiment.layout
        self._modules = layout.modules
        for module in self._modules:
            fused_name(module)
        self.slots = config.engine.shard
        self.stop_ids = experiment.source.stop_ids()
        self.max_new_tokens = config.task.max_new_tokens
        self.ignore_stop = False
        """Run every row to its full length, for benchmarks."""
        rows = rows_at_once(experiment, lifecycle.gpu_memory())
        arguments = server_arguments(config, experiment.source, rows, compat.argument_names(root))
        ranks = config.engine.tensor_parallel
        self._log_file = lifecycle.log_file()
        self._client = SchedulerClient(
            ranks,
            layout.size,
            members=max(config.evolution.population, self.slots),
            segments=2 * len(layout.modules) + 1,
            reply=min(layout.size, SLICE),
            updates=most_updates(config.evolution.population),
        )
        options = Options(layout, ranks, self._log_file, split_tokens(experiment))
        try:
            self._engine = self._client.engine = lifecycle.start(arguments, options)
        except BaseException:
            self._client.close()
            raise
        self._finished = FinishedRequests(self._engine.tokenizer_manager)
        self._watchdog = lifecycle.ProcessWatchdog(self._engine.processes, self._log_file)
        self.write_seconds: float | None = None
        """Seconds that the last writing of adapters took inside the scheduler."""
        self.digests: dict[Variant, int] = {}
        """The hash of each adapter's weights in the last call."""
        self.merged = SchedulerWeights(self._client, layout.modules) if layout.form == "merged" else None
        """The weights that updates go into, in form `merged`."""
        self._merged_centre = None
        if self.merged is not None:
            self._merged_centre = MergedCentre(self.merged, experiment.checkpoints)
        try:
            self._register(adapter_config(config, layout.scaling))
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

        In form `merged`, one for each centre.

        on_completion is called for a row when it is complete, while others are generated; an exception in it
        is raised when they are, too. Greedy rows, rows sampled with top_p 1 and rows sampled with less run
        one kind after the other. SGLang uses the seed of a sampled row only with `engine.deterministic`:
        without it samples are not repeatable.
        """
        completions: dict[int, Completion] = {}
        ends = frozenset() if self.ignore_stop else self.stop_ids
        self.digests = {}
        for numbers, batch in self._batches(centres, perturbation, rows):
            slot_of = self.write_adapters(centres, perturbation, batch)

            def completed(place: int, output: requests.Output, numbers: list[int] = numbers) -> None:
                number = numbers[place]
                requests.check_finished(output, str(rows[number].variant))
                completions[number] = requests.completion(output, ends, log_probs)
                if on_completion is not None:
                    on_completion(number, completions[number])

            try:
                self._generate(batch, slot_of, log_probs, completed)
            except Exception:  # of a reward for what such logits gave, say
                self._check_finite(rows, numbers, batch, slot_of)
                raise
            self._check_finite(rows, numbers, batch, slot_of)
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
        for numbers, batch in self._batches(centres, perturbation, extended):
            slot_of = self.write_adapters(centres, perturbation, batch)
            # SGLang returns none for the first token from there on, so that is the prompt's last token
            starts = [len(rows[number].prompt_ids) - 1 for number in numbers]
            outputs = self.generate_raw(batch, slot_of, 1, return_logprob=True, logprob_start_len=starts)
            for number, output in zip(numbers, outputs, strict=True):
                requests.check_finished(output, str(rows[number].variant))
                found[number] = requests.input_log_probs(output, len(continuations[number]))
                if not np.isfinite(found[number]).all():
                    raise EvaluationError(f"{rows[number].variant}: log-probabilities are not finite")
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
        sigma = perturbation.scale(generation)
        if 0.0 in sigma.values:
            found[sigma.dense(start, stop) == 0] = 0  # no member differs there
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
            centre = {} if perturbation.fresh else self._client.centre_values(centres[group.centre])
            arrays = group_arrays(group, perturbation.scale(group.generation))
            answers = self._client.call("write_adapters", Message(noise | centre, arrays))
            self.write_seconds += max(answer.values["seconds"] for answer in answers)
            totals = np.sum([answer.arrays["digests"] for answer in answers], axis=0)
            for adapter, total in zip(group.adapters, totals, strict=True):
                self.digests[adapter] = int(total) & 0xFFFFFFFF
        return slot_of

    def drift(self, centre: NDArray[np.float64], perturbation: Perturbation) -> float:
        """See Engine."""
        if self._merged_centre is None:
            return super().drift(centre, perturbation)
        return self._merged_centre.drift(centre, perturbation)

    def change(
        self, centre: NDArray[np.float64], perturbation: Perturbation, number: int
    ) -> NDArray[np.float32]:
        """See Engine."""
        if self._merged_centre is None:
            return super().change(centre, perturbation, number)
        return self._merged_centre.change(centre, perturbation, number)

    def checksum(self) -> int | None:
        """See Engine."""
        return None if self._merged_centre is None else self._merged_centre.checksum()

    def generate_raw(
        self,
        rows: Sequence[Row],
        slot_of: SlotOf,
        new_tokens: int | None = None,
        on_output: requests.OnOutput | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """SGLang's outputs of the rows, with whatever lies in the slots; options are `generate`'s.

        on_output: called with a row's number and its output when it has finished.
        """
        ends = None if self.ignore_stop else self.stop_ids
        arguments = requests.arguments(rows, slot_of, new_tokens or self.max_new_tokens, ends)
        call = partial(parts.generate, self._engine, **arguments, **options)
        return call() if on_output is None else self._finished.outputs(call, len(rows), on_output)

    def close(self) -> None:
        """Stop SGLang's processes and wait until their GPU memory is free."""
        self._watchdog.stop()
        self._client.close()
        self._engine.shutdown()

    def _generate(
        self, rows: Sequence[Row], slot_of: SlotOf, log_probs: bool, on_output: requests.OnOutput | None
    ) -> None:
        """Generate the rows, with a call for each way of sampling among them."""
        # -1: no log-probabilities of the input
        options = {"return_logprob": True, "logprob_start_len": -1} if log_probs else {}
        for numbers in requests.by_sampler(rows):
            mine = [rows[number] for number in numbers]
            told = None if on_output is None else requests.renumbered(numbers, on_output)
            self.generate_raw(mine, slot_of, on_output=told, **options)

    def _batches(
        self, centres: Sequence[Vector], perturbation: Perturbation, rows: Sequence[Row]
    ) -> Iterator[tuple[list[int], list[Row]]]:
        """The numbers of rows that are generated together, and these rows as SGLang is asked.

        In form `merged` the model has their centre's weights by then.
        """
        if self._merged_centre is None or not perturbation.fresh:  # the probe's members are not
            yield from batches(rows, self.slots)
            return
        for numbers in self._merged_centre.batches(centres, perturbation, rows):
            asked = [without_centre(rows[number]) for number in numbers]
            for places, batch in batches(asked, self.slots):
                yield [numbers[place] for place in places], batch

    def _check_finite(
        self, rows: Sequence[Row], numbers: Sequence[int], batch: Sequence[Row], slot_of: SlotOf
    ) -> None:
        """Raise EvaluationError if logits were not finite; batch: the rows of these numbers as asked."""
        if not self._finite():
            culprit = self._culprit(batch, slot_of)
            who = "a variant of this batch" if culprit is None else rows[numbers[culprit]].variant
            raise EvaluationError(f"{who}: the model's logits are not finite")

    def _finite(self) -> bool:
        """Whether all logits since the last call of this or of `write_adapters` were finite."""
        return bool(self._client.call("finite")[0].values["finite"])

    def _culprit(self, rows: Sequence[Row], slot_of: SlotOf) -> int | None:
        """The number of a row of the first variant whose rows alone give logits that are not finite."""
        variants = [row.variant for row in rows]
        for variant in dict.fromkeys(variants):
            self._generate([row for row in rows if row.variant == variant], slot_of, False, None)
            if not self._finite():
                return variants.index(variant)
        return None

    def _register(self, config: dict[str, Any]) -> None:
        """An empty adapter for each slot: what it holds is written in place later."""
        for slot in range(self.slots):
            result = self._engine.load_lora_adapter_from_tensors(adapter_name(slot), {}, config)
            if not result.success:
                raise RunError(f"SGLang did not register adapter slot {slot}: {result.error_message}")

    def _describe(self) -> EngineInfo:
        answers = self._client.call("describe")
        names = ("abs_sums", "square_sums", "entries")
        sums, squares, entries = (np.sum([a.arrays[name] for a in answers], axis=0) for name in names)
        # by the mean, as several ranks may hold the same heads of k and v
        norms = np.sqrt(squares / entries * [m.in_features * m.out_features for m in self._modules])
        return EngineInfo(
            mean_abs=tuple(float(value) for value in sums / entries),
            frobenius=tuple(float(value) for value in norms),
            parameters=sum(answer.values["parameters"] for answer in answers),
            device=answers[0].values["device"],
            dtype=answers[0].values["dtype"],
        )
