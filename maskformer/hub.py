"""The hub: where a model's files are, fetched where they are not here, and sent there.

Takes a folder, a name of the zoo or a hub id, and gives a folder on this machine. `weights.py` says
what a folder must hold. Starts without torch; a local folder needs no hub.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from maskformer.zoo import MODELS, entry_of, fetched_folder

CONFIG_NAME = "config.json"

_HUB = "hf://"
_HUB_FILES = [
    CONFIG_NAME,
    "preprocessor_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "README.md",  # the card names licence and data
]
_HUB_PICKLES = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"]


@dataclass(frozen=True, kw_only=True)
class HubOptions:
    """Options of fetching from the hub, in transformers' names. A local folder needs none."""

    revision: str | None = None
    """A branch, tag or commit."""
    token: str | bool | None = None
    """False for none; None or True for that of `hf auth login` or HF_TOKEN."""
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    """Take what the cache holds, and ask no network."""
    force_download: bool = False
    subfolder: str = ""
    """The folder within the repository, or within a folder on this machine."""

    @classmethod
    def split(cls, values: Mapping[str, Any]) -> tuple["HubOptions", dict[str, Any]]:
        """Separates our options from other keyword arguments. `use_auth_token` is token's old
        name."""
        rest = dict(values)
        if "use_auth_token" in rest:
            rest.setdefault("token", rest.pop("use_auth_token"))
        names = [field.name for field in fields(cls)]
        given = {name: rest.pop(name) for name in names if name in rest}
        return cls(**{name: value for name, value in given.items() if value is not None}), rest


_NO_OPTIONS = HubOptions()


def resolve_folder(name_or_folder: str, options: HubOptions = _NO_OPTIONS) -> str:
    """The folder itself, or where a model of the zoo or the hub (`org/name`) is fetched to.

    A folder or a file of weights on this machine comes before a model of the same name. Only what a
    model is made of is fetched, pickled weights only where there are no safetensors.

    Raises:
        ValueError: there is no such model, or it could not be fetched.
    """
    if name_or_folder and Path(name_or_folder).exists():
        return str(Path(name_or_folder, options.subfolder)) if options.subfolder else name_or_folder
    entry = entry_of(name_or_folder)
    if entry is not None:
        if options.revision not in (None, "main") or options.subfolder:
            raise ValueError(
                f"{name_or_folder} is a model of the zoo, which has one version of it and no "
                "subfolders; leave out revision and subfolder"
            )
        return fetched_folder(entry)
    name = name_or_folder.removeprefix(_HUB).strip("/")
    if name.count("/") != 1 or name[0] in ".~" or name_or_folder.startswith("/"):
        raise ValueError(
            f"a model must be a folder, a name of the zoo (maskformer zoo) or a hub id "
            f"such as org/name, got {name_or_folder!r}, and there is no such folder{_near(name)}"
        )
    return _fetched(name, options)


def _near(name: str) -> str:
    """Suggests the folder here or the model of the zoo whose name is nearest."""
    folders = [each.name for each in Path.cwd().iterdir() if each.is_dir()]
    near = get_close_matches(name, [*folders, *MODELS], n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _fetched(name: str, options: HubOptions) -> str:
    from huggingface_hub import snapshot_download

    given = {name: value for name, value in asdict(options).items() if value}
    inside = given.pop("subfolder", "")
    if options.token is False:
        given["token"] = False

    def fetch(patterns: list[str]) -> Path:
        wanted = [f"{inside}/{pattern}" if inside else pattern for pattern in patterns]
        return Path(snapshot_download(name, allow_patterns=wanted, **given), inside)

    try:
        folder = fetch(_HUB_FILES)
        if not any(folder.glob("*.safetensors")):
            folder = fetch([*_HUB_FILES, *_HUB_PICKLES])
    except Exception as error:
        raise ValueError(
            f"{name!r} is no folder here, and fetching it from the hub failed "
            f"({type(error).__name__}: {' '.join(str(error).split())}); give a folder, or check "
            "name and network"
        ) from error
    return str(folder)


class Pushable:
    """Something that `save_pretrained` writes into a folder, and that can be sent to the hub."""

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> None:
        raise NotImplementedError

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        **options: Any,
    ) -> str:
        """Sends what `save_pretrained` writes to a repository of the hub, in one commit.

        The repository (`org/name`) and the branch `revision` are made where there are none;
        `options` go to `save_pretrained`. Returns the commit's address.

        Raises:
            ValueError: the hub cannot be reached or refuses, in one line.
        """
        from huggingface_hub import HfApi

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **options)
            api = HfApi(token=token)
            try:
                repository = api.create_repo(repo_id, private=private, exist_ok=True)
                if revision is not None and not create_pr:
                    api.create_branch(repository.repo_id, branch=revision, exist_ok=True)
                commit = api.upload_folder(
                    repo_id=repository.repo_id,
                    folder_path=folder,
                    commit_message=commit_message or f"Upload {type(self).__name__}",
                    commit_description=commit_description,
                    revision=revision,
                    create_pr=create_pr,
                )
            except Exception as error:
                raise ValueError(
                    f"pushing to {repo_id!r} on the hub failed ({type(error).__name__}: {error}); "
                    "check the name, the network and the token (hf auth login, or token=...)"
                ) from error
        return str(commit.commit_url)

    def _finish_saving(
        self, save_directory: str | Path, *, push_to_hub: bool, push_options: Mapping[str, Any]
    ) -> None:
        """Pushes where asked to; refuses options that would then have no effect."""
        if push_to_hub:
            options = dict(push_options)
            self.push_to_hub(options.pop("repo_id", Path(save_directory).name), **options)
        elif push_options:
            raise TypeError(
                f"save_pretrained takes {', '.join(sorted(push_options))} together with "
                "push_to_hub=True only"
            )
