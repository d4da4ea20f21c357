"""Why a run has the noise that it has, as far as its configuration tells."""

from es_ray.config.loading import DEFAULT_PRESET, GENERAL_PRESET, load, preset_names
from es_ray.config.sections import Config


def noise_origin(config: Config) -> str:
    """`general default` (of that form), `as in preset NAME`, or `set by you`: whose noise it is."""
    mine = config.lora.form, config.evolution.noise
    if config.evolution.noise == Config().replace(lora__form=config.lora.form).evolution.noise:
        return "general default"
    for name in sorted(set(preset_names()) - {GENERAL_PRESET}, key=lambda name: name != DEFAULT_PRESET):
        preset = load(preset=name)
        if mine == (preset.lora.form, preset.evolution.noise):
            return f"as in preset {name}"
    return "set by you"
