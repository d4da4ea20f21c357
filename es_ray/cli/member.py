"""`es-ray member`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from es_ray.cli.options import AsJson, Debug, Engine, RunDirectory
from es_ray.errors import UserError


def member(
    run_dir: RunDirectory,
    generation: Annotated[int, typer.Option(help="The generation.")],
    output: Annotated[Path, typer.Option(help="The adapter's folder; must be new or empty.")],
    index: Annotated[int | None, typer.Option(help="Which member.")] = None,
    centre: Annotated[
        bool, typer.Option("--centre", help="The centre after the generation's update.")
    ] = False,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Have the member answer its generation's prompts again.")
    ] = False,
    engine: Engine = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Rebuild any member of a run, or a centre, as a PEFT adapter."""
    from rich.console import Console

    from es_ray.judge.reevaluation import member_answers, reevaluation_config
    from es_ray.judge.table import answers_table
    from es_ray.runs.cards import rebuilt_card
    from es_ray.runs.past_run import open_past_run
    from es_ray.runs.run_dir import RunDir

    if centre == (index is not None):
        raise UserError("--index I or --centre: one of the two is needed")
    if evaluate and index is None:
        raise UserError("--evaluate: is for a member (--index); es-ray evaluate shows a centre's answers")
    if engine is not None and not evaluate:
        raise UserError(f"--engine {engine}: has no effect without --evaluate")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output}: exists and is not an empty folder")
    past = open_past_run(RunDir.open(run_dir), generation)
    past.check_weights()  # of another model's weights an adapter would make something else
    if past.config.lora.form == "merged":
        raise UserError(
            f"{run_dir}: a run of lora.form merged has no adapters; es-ray export --generation {generation} "
            f"{'' if index is None else f'--index {index} '}--merged writes the whole model"
        )
    config = reevaluation_config(past.config, engine) if evaluate else None
    vector = past.centre() if index is None else past.member(index)
    name = "the centre after" if index is None else f"member {index} of"
    note = past.rebuilt_note(index)
    card = rebuilt_card(f"{name} generation {generation}", past.how_to_load(), note)
    try:
        past.writer().write(vector, output, card)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written: {error.strerror}") from error
    base = past.experiment.source.path
    answers = member_answers(past, config, index) if config is not None and index is not None else None
    if as_json:
        written = {"adapter": str(output), "generation": generation, "index": index, "base": base}
        written |= {} if note is None else {"note": note}
        typer.echo(json.dumps(written if answers is None else written | {"answers": answers}))
    else:
        suffix = "" if note is None else f"; {note}"
        typer.echo(f"wrote {output}: {name} generation {generation}, a PEFT adapter of {base}{suffix}")
        if answers is not None:
            title = f"{name} generation {generation}, training prompts"
            Console(highlight=False).print(answers_table(answers, title))
