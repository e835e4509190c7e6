import json
from pathlib import Path

import pytest

from ebscrypt import config
from ebscrypt.errors import ConfigError
from ebscrypt.model import ExportKind


def load(tmp_path: Path, toml: str = "", **environ: str) -> config.Settings:
    path = tmp_path / "config.toml"
    path.write_text(toml)
    return config.load({"EBSCRYPT_CONFIG": str(path), "HOME": str(tmp_path), **environ})


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    """A key set in both places has the environment's value; the others keep the file's."""
    settings = load(
        tmp_path, '[kms]\nregion = "eu-west-1"\nattempts = 2\n', EBSCRYPT_KMS_REGION="eu-central-1", EBSCRYPT_KMS="aws"
    )
    assert (settings.kms.region, settings.kms.attempts, settings.kms.endpoint) == ("eu-central-1", 2, "aws")


def test_every_key_can_come_from_the_environment(tmp_path: Path) -> None:
    """Each field of each section has its EBSCRYPT_<SECTION>_<KEY>."""
    values = {
        "EBSCRYPT_ATTACH_EXPORT": "socket",
        "EBSCRYPT_ATTACH_CONNECTIONS": "3",
        "EBSCRYPT_ATTACH_DISCARD": "false",
        "EBSCRYPT_KMS_DEADLINE": "2.5",
    }
    urls = {"archive": "s3://bucket/prefix?region=eu-west-1"}
    settings = load(tmp_path, **values, EBSCRYPT_STORES_URLS=json.dumps(urls))
    assert settings.stores.urls == urls
    assert settings.attach.export is ExportKind.SOCKET
    assert settings.attach.connections == 3
    assert settings.attach.discard is False
    assert settings.kms.deadline == 2.5


def test_a_moved_state_directory_takes_the_runtime_files_along(tmp_path: Path) -> None:
    """EBSCRYPT_STATE_DIR alone gives a world of its own, sockets included."""
    settings = load(tmp_path, EBSCRYPT_STATE_DIR="/s")
    assert settings.paths == config.PathSettings(state="/s", runtime="/s/run")


@pytest.mark.parametrize(
    ("toml", "environ", "word"),
    [
        ("[kms]\nregoin = 'x'\n", {}, "regoin"),
        ("[kmss]\nregion = 'x'\n", {}, "kmss"),
        ("kms = 3\n", {}, "kms"),
        ("[kms\n", {}, "config.toml"),
        ("[kms]\nattempts = 0\n", {}, "attempts"),
        ("[kms]\naccount = '12'\n", {}, "account"),
        ("", {"EBSCRYPT_KMS": "ftp://x"}, "endpoint"),
        ("", {"EBSCRYPT_KSM": "aws"}, "EBSCRYPT_KSM"),
        ("", {"EBSCRYPT_ATTACH_EXPORT": "iscsi"}, "export"),
        ("", {"EBSCRYPT_STORES_URLS": "archive=/x"}, "EBSCRYPT_STORES_URLS is no JSON object"),
        ("", {"EBSCRYPT_STORES_URLS": '["x"]'}, "stores.urls"),
        ("[regions]\nfiles = {Frankfurt = '/x'}\n", {}, "regions.files"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, toml: str, environ: dict[str, str], word: str) -> None:
    """Misspelt sections, keys and variables, and values out of range, name themselves."""
    with pytest.raises(ConfigError, match=word):
        load(tmp_path, toml, **environ)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    """EBSCRYPT_CONFIG that points nowhere is an error, not an empty configuration."""
    with pytest.raises(ConfigError, match="no configuration file"):
        config.load({"EBSCRYPT_CONFIG": str(tmp_path / "none.toml")})


def test_the_region_follows_the_aws_variables_unless_told_otherwise(tmp_path: Path) -> None:
    """AWS_REGION is the default that people already set; our own setting wins."""
    assert load(tmp_path, AWS_REGION="ap-south-1").kms.region == "ap-south-1"
    assert load(tmp_path, AWS_REGION="ap-south-1", EBSCRYPT_REGION="eu-north-1").kms.region == "eu-north-1"
