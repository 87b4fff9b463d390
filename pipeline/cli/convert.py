"""Converts weights of any dialect to a folder in the transformers format."""

from maskformer import convert_weights
from pipeline.cli.settings import ConvertSettings
from pipeline.runtime.exit_codes import ExitCode
from pipeline.runtime.settings import Settings, WrongUsage


def convert_model(settings: Settings) -> int:
    """Writes the folder; gives the exit code.

    Raises:
        WrongUsage: the weights are no model, or cannot be read or written.
    """
    given = settings.of(ConvertSettings)
    try:
        convert_weights(
            given.source,
            given.folder,
            zoo_name=given.name,
            config_file=given.config,
            dtype=given.dtype,
            allow_missing=given.allow_missing,
            allow_unexpected=given.allow_unexpected,
        )
    except (ValueError, OSError) as error:
        raise WrongUsage(" ".join(str(error).split())) from error
    print(f"wrote {given.folder}")
    return ExitCode.DONE
