"""The user's code that workers need: that of the task and of the engine. (Update rules run in the driver.)"""

from es_ray.config import Config
from es_ray.imports import is_import_path
from es_ray.imports.shipping import Code, pack
from es_ray.tasks.loading import import_path


def user_code(config: Config) -> Code | None:
    """The code to ship; None for a run that has none of its own, which then costs nothing.

    config: resolved. Raises UserError for too much of it.
    """
    task, engine = config.task.name, config.engine.kind
    names = [("task.name", import_path(task)), ("engine.kind", engine)]
    wanted = [(key, name) for key, name in names if is_import_path(name)]
    if not wanted:
        return None
    code = pack(wanted, {task: import_path(task)} if import_path(task) != task else {})
    return code if code.archive or code.entry_points else None
