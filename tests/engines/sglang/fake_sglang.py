"""A stand-in for SGLang's side on the CPU: schedulers with a LoRA pool, and a model that any adapter changes.

It has the names of compat.NAMES that es-ray uses, and does what SGLang does with them; what is tested is what
ours does. tests/gpu has the real one.
"""

import asyncio
import itertools
import zlib
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch

from es_ray.engines.sglang.arguments import adapter_name
from es_ray.engines.sglang.finite_logits import logits_check
from es_ray.engines.sglang.ipc.scheduler_host import Options, SchedulerHost
from es_ray.engines.sglang.lora.pool_layout import FUSED, fused_name
from tests.engines.sglang.test_pool_layout import FULL, SLOTS, WIDTH, layout, tp_slice

LAYOUT = layout(2)
KEYS = sorted({(fused_name(m)[0], m.layer) for m in LAYOUT.modules})
WEIGHTS = {m.name: torch.randn(m.out_features, m.in_features) for m in LAYOUT.modules}
VOCABULARY = 768
ADAPTERS = [adapter_name(number) for number in range(SLOTS - 1)]


class Wrapped:
    """A module with LoRA: its base layer, and how it slices for its rank."""

    def __init__(self, fused: str, layer: int, rank: int, ranks: int) -> None:
        self._tp_slice = tp_slice(fused, rank, ranks)
        parts = [
            WEIGHTS[next(m.name for m in LAYOUT.modules if m.layer == layer and m.name.endswith(p))]
            for p in FUSED[fused]
        ]
        full = torch.cat(parts)
        self.base_layer = SimpleNamespace(
            weight=full[self._tp_slice.rows][:, self._tp_slice.columns],
            num_kv_head_replicas=1,
            output_sizes=list(FULL[fused]),
            output_size=sum(FULL[fused]),
            input_size=WIDTH[fused],
        )

    def slice_lora_a_weights(self, a):
        return a[:, self._tp_slice.columns]

    def slice_lora_b_weights(self, b):
        return b[self._tp_slice.rows]


class FakeManager:
    dtype = torch.float16

    def __init__(self, rank: int, ranks: int) -> None:
        self.lora_modules: list[dict] = [{}, {}]
        a, b = {}, {}
        for fused, layer in KEYS:
            part = tp_slice(fused, rank, ranks)
            self.lora_modules[layer][f"model.layers.{layer}.x.{fused}"] = Wrapped(fused, layer, rank, ranks)
            a.setdefault(fused, []).append(
                torch.zeros(SLOTS, len(FUSED[fused]) * LAYOUT.rank, len(part.columns), dtype=self.dtype)
            )
            b.setdefault(fused, []).append(torch.zeros(SLOTS, len(part.rows), LAYOUT.rank, dtype=self.dtype))
        self.lora_refs = {f"id{n}": SimpleNamespace(lora_name=name) for n, name in enumerate(ADAPTERS)}
        self.memory_pool = SimpleNamespace(A_buffer=a, B_buffer=b, uid_to_buffer_id={})

    def fetch_new_loras(self, ids):
        order = sorted(ids, key=lambda uid: (uid is not None, uid or ""))
        self.memory_pool.uid_to_buffer_id = {uid: SLOTS - 1 - n for n, uid in enumerate(order)}

    def weights(self) -> bytes:
        """The bits of all base weights of this rank."""
        modules = [module for layer in self.lora_modules for module in layer.values()]
        return b"".join(module.base_layer.weight.numpy().tobytes() for module in modules)

    def matrices(self, name: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """A and B of every projection in an adapter's slot, for a manager that is the only rank."""
        slot = self.memory_pool.uid_to_buffer_id[f"id{ADAPTERS.index(name)}"]
        found = {}
        for module in LAYOUT.modules:
            fused, number = fused_name(module)
            a = self.memory_pool.A_buffer[fused][module.layer][slot].split(LAYOUT.rank)[number]
            b = self.memory_pool.B_buffer[fused][module.layer][slot].split(FULL[fused])[number]
            found[module.name] = (a.numpy(), b.numpy())
        return found


class FakeTokenizerManager:
    """Waits for requests as SGLang's does: one is finished after as many turns of the loop as it has tokens.

    eager: look a request up when called, as 0.5.23 does, and not when its output is awaited.
    """

    def __init__(self, eager: bool) -> None:
        self.eager = eager
        self.states: dict[str, dict] = {}
        self.running: set[str] = set()

    def _wait_one_response(self, obj, request=None):
        if self.eager:
            return self._stream(self.states[obj.rid], obj.rid)
        return self._look_up(obj.rid)

    async def _look_up(self, rid):
        async for output in self._stream(self.states[rid], rid):
            yield output

    async def _stream(self, output, rid):
        for _ in output["output_ids"]:
            await asyncio.sleep(0)
        self.running.remove(rid)
        yield output

    async def outputs(self, rids: list[str], outputs: list[dict]) -> list[dict]:
        self.states.update(zip(rids, outputs, strict=True))
        self.running.update(rids)
        waiters = [self._wait_one_response(SimpleNamespace(rid=rid)) for rid in rids]
        if self.eager:
            self.states = {}
        return await asyncio.gather(*(waiter.__anext__() for waiter in waiters))


class FakeEngine:
    """Hands a call to every rank's host, as SGLang does, and returns nothing but success."""

    def __init__(self, ranks: int, options: Options | None = None, eager: bool = False) -> None:
        self.busy = 0
        self.loop = asyncio.new_event_loop()
        self.tokenizer_manager = FakeTokenizerManager(eager)
        self.serial = itertools.count()
        self.cancelled = 0
        """How many calls of `async_generate` were cancelled."""
        self.calls: list[str] = []
        """The calls to the scheduler."""
        self.requests: list[dict] = []
        """The arguments of every `async_generate`."""
        self.abort: str | None = None
        self.managers = [FakeManager(rank, ranks) for rank in range(ranks)]
        self.hosts = []
        options = options or Options(LAYOUT, ranks, "")
        for rank, manager in enumerate(self.managers):
            runner = SimpleNamespace(model=torch.nn.Linear(3, 4), lora_manager=manager)
            scheduler = SimpleNamespace(
                flush_cache=self.flush,
                model_config=SimpleNamespace(hf_eos_token_id={9}),
                tp_worker=SimpleNamespace(model_runner=runner),
            )
            self.hosts.append(SchedulerHost(scheduler, rank, options))
            assert scheduler.model_config.hf_eos_token_id == set()

    def flush(self, empty_cache: bool) -> bool:
        self.busy -= 1
        return self.busy < 0

    def collective_rpc(self, method: str, **scalars) -> None:
        assert method == "es_ray_call"
        assert all(isinstance(value, (str, int)) for value in scalars.values())
        self.calls.append(scalars["what"])
        for host in self.hosts:
            host.call(**scalars)

    def load_lora_adapter_from_tensors(self, name, tensors, config):
        return SimpleNamespace(success=name in ADAPTERS and not tensors, error_message="unknown")

    processes = ()

    def freeze_gc(self):
        pass

    def shutdown(self):
        """As asyncio.run ends a loop: tasks that an interrupt left are not left to the garbage collector.

        It would have them logged wherever it runs, also within ast.parse, which Python 3.11 does not survive.
        """
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self.loop.close()

    async def async_generate(
        self,
        input_ids,
        sampling_params,
        lora_path,
        return_logprob=False,
        logprob_start_len=None,
        rid=None,
    ):
        self.requests.append({"sampling_params": sampling_params, "lora_path": lora_path})
        count = len(input_ids)
        params = sampling_params if isinstance(sampling_params, list) else [sampling_params] * count
        starts = logprob_start_len if isinstance(logprob_start_len, list) else [logprob_start_len] * count
        outputs = []
        for ids, name, sampling, start in zip(input_ids, lora_path, params, starts, strict=True):
            tokens = self._tokens(ids, name, sampling)
            reason = {"type": "abort", "message": self.abort} if self.abort else {"type": "length"}
            meta = {"finish_reason": reason}
            if return_logprob:
                start = len(ids) if start in (None, -1) else start
                meta["input_token_logprobs"] = [
                    (None if n == start else self.log_prob(ids[:n], ids[n], name), ids[n], None)
                    for n in range(start, len(ids))
                ]
                meta["output_token_logprobs"] = [
                    (self.log_prob([*ids, *tokens[:n]], token, name), token, None)
                    for n, token in enumerate(tokens)
                ]
            outputs.append({"output_ids": tokens, "meta_info": meta})
        rids = rid or [f"request {next(self.serial)}" for _ in range(count)]
        assert len(set(rids)) == count
        try:
            return await self.tokenizer_manager.outputs(rids, outputs)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def log_prob(self, context: Sequence[int], token: int, name: str | None) -> float:
        logits = self._logits(context, name)
        return float(logits[token] - np.log(np.exp(logits).sum()))

    def _tokens(self, ids, name, sampling) -> list[int]:
        tokens: list[int] = []
        while len(tokens) < sampling["max_new_tokens"]:
            logits = self._logits([*ids, *tokens], name)
            logits_check.observe(torch.tensor(logits)[None], torch.tensor([int(np.argmax(logits))]))
            if sampling["temperature"] > 0:
                noise = np.random.default_rng([sampling["sampling_seed"], len(tokens)]).gumbel(
                    size=VOCABULARY
                )
                logits = logits / sampling["temperature"] + noise
            tokens.append(int(np.argmax(logits)))
            if tokens[-1] in sampling.get("stop_token_ids", ()):
                break
        return tokens

    def _logits(self, context, name: str | None) -> np.ndarray:
        """Logits from the context and every bit of weights and adapter; one of zeros changes nothing."""
        before = np.array(context, dtype=np.int64).tobytes() + self.managers[0].weights()
        base = np.random.default_rng(zlib.crc32(before)).normal(size=VOCABULARY)
        if name is None:
            return base
        pairs = self.managers[0].matrices(name).values()
        content = np.concatenate([matrix.ravel() for pair in pairs for matrix in pair])
        if not np.isfinite(content).all():
            return base * np.nan
        if not content.any():
            return base
        return base + np.random.default_rng(zlib.crc32(content.tobytes() + before)).normal(size=VOCABULARY)
