"""The tensor parallel rank among the arguments that SGLang starts a scheduler with."""

from es_ray.engines.sglang.ipc.scheduler_process import tensor_parallel_rank


def of_0_5_17(
    server_args, port_args, gpu_id, tp_rank, attn_cp_rank, moe_dp_rank, moe_ep_rank, pp_rank, dp_rank,
    pipe_writer, display_tp_rank=None,
): ...  # fmt: skip


def reordered(server_args, tp_rank, gpu_id=0, *, pipe_writer=None): ...


def test_the_rank_is_found_by_its_name():
    assert tensor_parallel_rank(of_0_5_17, ("s", "p", 7, 3, 0, 1, 2, 4, None, "w"), {}) == 3
    assert tensor_parallel_rank(reordered, ("s", 5, 9), {"pipe_writer": "w"}) == 5
    assert tensor_parallel_rank(reordered, ("s",), {"gpu_id": 1, "tp_rank": 2}) == 2
