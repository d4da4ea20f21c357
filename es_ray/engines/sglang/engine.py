"""The SGLang engine: one serving engine on one GPU (or several), all candidates of a shard in one batch."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.base import BASE, Completion, Engine, EngineInfo, Row, candidate_name
from es_ray.engines.sglang import compat, lifecycle
from es_ray.engines.sglang.arguments import adapter_config, adapter_name, server_arguments
from es_ray.engines.sglang.ipc.scheduler_client import SchedulerClient, sigma_arrays
from es_ray.engines.sglang.ipc.scheduler_host import Options
from es_ray.engines.sglang.ipc.shm_channel import Message
from es_ray.engines.sglang.lora.pool_layout import fused_name
from es_ray.engines.sglang.probe import probe
from es_ray.errors import EvaluationError, RunError
from es_ray.evolution.strategy import Strategy, Vector
from es_ray.experiment import Experiment

log = logging.getLogger(__name__)

SLICE = 1 << 20
"""Entries of theta that one call to `tell` may compute: a GPU makes them in a millisecond."""


class SGLangEngine(Engine):
    """Adapter slots are registered once; a generation is one call that writes them, then one `generate`."""

    def __init__(self, experiment: Experiment, probed: bool = True) -> None:
        config = experiment.config
        root = compat.package()
        compat.check(root)
        layout = experiment.layout
        for module in layout.modules:
            fused_name(module)
        self.slots = config.engine.shard
        self.stop_ids = experiment.source.stop_ids()
        self.max_new_tokens = config.task.max_new_tokens
        self.ignore_stop = False
        """Run every row to its full length: for benchmarks."""
        self._population = config.evolution.population
        self._layout = layout
        arguments = server_arguments(
            config, experiment.source, _rows(experiment), compat.argument_names(root)
        )
        ranks = config.engine.tensor_parallel
        self._log_file = lifecycle.log_file()
        self._link = SchedulerClient(
            ranks,
            layout.size,
            members=max(self._population, self.slots),
            segments=2 * len(layout.modules) + 1,
            reply=min(layout.size, SLICE),
        )
        options = Options(layout, ranks, tuple(sorted(self.stop_ids)), self._log_file)
        try:
            self._engine = self._link.engine = lifecycle.start(arguments, options)
        except BaseException:
            self._link.close()
            raise
        self._watch = lifecycle.ProcessWatchdog(self._engine.get_all_child_pids(), self._log_file)
        self.write_seconds: float | None = None
        """What the last placing took inside the scheduler."""
        self.digests: dict[int, int] = {}
        """The hash of the adapter weights that each candidate of the last call had."""
        try:
            self._register(adapter_config(config))
            self.info = self._describe()
            if probed:
                probe(self, experiment)
            # what lives for good is not looked through again: that took 0.7 s of every 2500 requests
            self._engine.freeze_gc()
        except BaseException:
            self.close()
            raise

    def generate(
        self, theta: Vector, strategy: Strategy, generation: int, rows: Sequence[Row]
    ) -> list[Completion]:
        """Greedy completions of the rows, in their order; in one batch unless there are too few slots."""
        completions: dict[int, Completion] = {}
        self.digests = {}
        for numbers in self._batches(rows):
            batch = [rows[number] for number in numbers]
            slot_of = self.write_adapters(theta, strategy, generation, batch)
            outputs = self.generate_raw(batch, slot_of)
            if not self._link.call("finite")[0].values["finite"]:
                raise EvaluationError(
                    f"{self._culprit(batch, slot_of, generation)}: the model's logits are not finite"
                )
            for number, row, output in zip(numbers, batch, outputs, strict=True):
                completions[number] = self._completion(output, candidate_name(row.candidate, generation))
        digest = sum((index + 3) * value for index, value in self.digests.items()) & 0xFFFFFFFF
        log.info("generation %d: %d adapters in place, hash %08x", generation, len(self.digests), digest)
        return [completions[number] for number in range(len(rows))]

    def tell(
        self,
        theta: Vector,
        strategy: Strategy,
        generation: int,
        advantages: NDArray[np.float64],
        start: int,
        stop: int,
    ) -> Vector:
        """Entries [start, stop) of the next centre, on the GPU: the same bytes however theta is cut."""
        found = np.empty(stop - start, dtype=np.float32)
        about = self._link.about(theta, strategy, generation)
        for low in range(start, stop, SLICE):
            values = about | {
                "start": low,
                "stop": min(low + SLICE, stop),
                "step": strategy.learning_rate / len(advantages),
            }
            arrays: dict[str, Any] = {"advantages": advantages.astype(np.float32)}
            if strategy.update_scale == "sigma":
                arrays |= sigma_arrays(strategy.scale(generation))
            part = self._link.call("tell", Message(values, arrays))[0].arrays["theta"]
            found[low - start : values["stop"] - start] = part
        return found

    def write_adapters(
        self, theta: Vector, strategy: Strategy, generation: int, rows: Sequence[Row]
    ) -> dict[int, int]:
        """Write the rows' candidates into the slots; returns the slot of each but the base model."""
        adapted = [c for c in dict.fromkeys(row.candidate for row in rows) if c != BASE]
        values = self._link.about(theta, strategy, generation)
        arrays = {"candidates": np.array(adapted, dtype=np.int64), **sigma_arrays(strategy.scale(generation))}
        answers = self._link.call("write_adapters", Message(values, arrays))
        self.write_seconds = max(answer.values["seconds"] for answer in answers)
        totals = np.sum([answer.arrays["digests"] for answer in answers], axis=0)
        self.digests |= {c: int(total) & 0xFFFFFFFF for c, total in zip(adapted, totals, strict=True)}
        return {candidate: slot for slot, candidate in enumerate(adapted)}

    def generate_raw(
        self, rows: Sequence[Row], slot_of: dict[int, int], new_tokens: int | None = None, **options: Any
    ) -> list[dict[str, Any]]:
        """SGLang's outputs of the rows, with whatever lies in the slots; options are `generate`'s."""
        sampling: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": new_tokens or self.max_new_tokens}
        if self.ignore_stop:
            sampling["ignore_eos"] = True
        else:
            sampling["stop_token_ids"] = sorted(self.stop_ids)
        return self._engine.generate(
            input_ids=[list(row.prompt_ids) for row in rows],
            sampling_params=sampling,
            lora_path=[
                None if row.candidate == BASE else adapter_name(slot_of[row.candidate]) for row in rows
            ],
            **options,
        )

    def close(self) -> None:
        """Stop SGLang's processes and wait until their GPU memory is free."""
        self._watch.stop()
        self._link.close()  # first: SGLang's shutdown ends every child, Python's own helpers among them
        self._engine.shutdown()

    def _register(self, config: dict[str, Any]) -> None:
        """An empty adapter for each slot: what it holds is written in place later."""
        for slot in range(self.slots):
            result = self._engine.load_lora_adapter_from_tensors(adapter_name(slot), {}, config)
            if not result.success:
                raise RunError(f"SGLang did not register adapter slot {slot}: {result.error_message}")

    def _describe(self) -> EngineInfo:
        answers = self._link.call("describe")
        sums = np.sum([answer.arrays["abs_sums"] for answer in answers], axis=0)
        entries = np.sum([answer.arrays["entries"] for answer in answers], axis=0)
        return EngineInfo(
            mean_abs=tuple(float(value) for value in sums / entries),
            parameters=sum(answer.values["parameters"] for answer in answers),
            device=answers[0].values["device"],
            dtype=answers[0].values["dtype"],
        )

    def _batches(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """Numbers of the rows, in batches of as many candidates as there are slots."""
        adapted = [c for c in dict.fromkeys(row.candidate for row in rows) if c != BASE]
        batch_of = {candidate: number // self.slots for number, candidate in enumerate(adapted)}
        for batch in range(max(batch_of.values(), default=0) + 1):
            yield [n for n, row in enumerate(rows) if batch_of.get(row.candidate, 0) == batch]

    def _culprit(self, rows: Sequence[Row], slot_of: dict[int, int], generation: int) -> str:
        """The first candidate whose rows alone give logits that are not finite."""
        for candidate in dict.fromkeys(row.candidate for row in rows):
            self.generate_raw([row for row in rows if row.candidate == candidate], slot_of)
            if not self._link.call("finite")[0].values["finite"]:
                return candidate_name(candidate, generation)
        return f"a candidate of generation {generation}"

    def _completion(self, output: dict[str, Any], who: str) -> Completion:
        finish = output["meta_info"]["finish_reason"] or {}
        if finish.get("type") not in ("stop", "length"):
            raise EvaluationError(f"{who}: SGLang did not finish: {finish.get('message', finish)}")
        tokens = list(output["output_ids"])
        ended = bool(tokens) and tokens[-1] in self.stop_ids and not self.ignore_stop
        return Completion(tokens, "stop" if ended else "length")


def _rows(experiment: Experiment) -> int:
    """The largest batch: a shard of candidates, and the test prompts of the centre and the base model."""
    prompts = experiment.prompt_ids
    train, test = len(prompts["train"]), len(prompts["test"])
    return experiment.config.engine.shard * train + 2 * test
