from pathlib import Path

import pytest

from ebscrypt import config
from ebscrypt.config import PathSettings, Settings, StoreSettings
from ebscrypt.errors import ConfigError
from ebscrypt.stores.addresses import DirectoryAddress, S3Address, open_store, parse_url, store_url


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("file:///mnt/backup", DirectoryAddress(Path("/mnt/backup"))),
        ("file:///mnt/my%20backup/", DirectoryAddress(Path("/mnt/my backup"))),
        ("s3://bucket", S3Address(bucket="bucket")),
        ("s3://bucket/a/b/?region=eu-central-1", S3Address(bucket="bucket", prefix="a/b/", region="eu-central-1")),
        ("s3://b.c-d?profile=x", S3Address(bucket="b.c-d", profile="x")),
        ("s3://bucket?endpoint=https://s3.example.org", S3Address(bucket="bucket", endpoint="https://s3.example.org")),
        ("s3://bucket?endpoint=http://[::1]:7070", S3Address(bucket="bucket", endpoint="http://[::1]:7070")),
        (
            "s3://bucket?endpoint=http://nas:9000&plain-http=yes",
            S3Address(bucket="bucket", endpoint="http://nas:9000"),
        ),
    ],
)
def test_addresses(url: str, address: DirectoryAddress | S3Address) -> None:
    """Each form of URL means what the manual says."""
    assert parse_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/mnt/backup",
        "file://",
        "file:///",
        "file://host/mnt",
        "file:///mnt?x=1",
        "file:///mnt%00",
        "ftp://host/x",
        "s3://",
        "s3://UPPER",
        "s3://a",
        "s3://bucket/../x",
        "s3://bucket/a//b",
        "s3://bucket/%0a",
        "s3://bucket?endpoint=ftp://x",
        "s3://bucket?endpoint=https://",
        "s3://bucket?endpoint=https://x:notaport",
        "s3://bucket?endpoint=https://x/path",
        "s3://bucket?endpoint=http://nas:9000",
        "s3://bucket?endpoint=http://nas:9000&plain-http=maybe",
        "s3://bucket?colour=red",
        "s3://bucket?region=a&region=b",
        "s3://bucket#part",
        "s3://bucket:99999999",
        "s3://[",
    ],
)
def test_wrong_addresses_are_refused(url: str) -> None:
    """Whatever is wrong is told with the URL in it."""
    with pytest.raises(ConfigError):
        parse_url(url)


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    """They would end up in listings and messages."""
    with pytest.raises(ConfigError) as caught:
        parse_url("s3://id:hunter2@bucket")
    assert "hunter2" not in caught.value.message


def test_an_address_is_shown_as_it_is_written() -> None:
    """What messages show can be pasted into the settings."""
    url = "s3://bucket/a/?endpoint=https://s3.example.org&region=eu-central-1"
    address = parse_url(url)
    assert isinstance(address, S3Address)
    assert address.url == url


def test_names(tmp_path: Path) -> None:
    """A store is found by name or URL; ``local`` needs no setting; an unknown name is told with the known ones."""
    paths = PathSettings(state=str(tmp_path), runtime=str(tmp_path))
    settings = Settings(paths=paths, stores=StoreSettings(default="nas", urls={"nas": "file:///mnt/nas"}))

    assert store_url(settings) == "file:///mnt/nas"
    assert store_url(settings, "local") == (tmp_path / "snapshots").as_uri()
    assert store_url(settings, "s3://bucket") == "s3://bucket"
    with pytest.raises(ConfigError, match="no store 'tape'") as caught:
        store_url(settings, "tape")
    assert "local, nas" in str(caught.value.hint)
    opened = open_store(settings, "local")
    assert (tmp_path / "snapshots" / "store.json").exists()
    opened.close()


def test_settings_from_file_and_environment(tmp_path: Path) -> None:
    """[stores] and [stores.urls] in the file, the default also from the environment; wrong names are refused."""
    file = tmp_path / "config.toml"
    file.write_text('[stores]\nworkers = 3\n[stores.urls]\nnas = "file:///mnt/nas"\n')
    environment = {"EBSCRYPT_CONFIG": str(file), "EBSCRYPT_STATE_DIR": str(tmp_path), "EBSCRYPT_STORES_DEFAULT": "nas"}

    loaded = config.load(environment)

    assert (loaded.stores.default, loaded.stores.workers, loaded.stores.urls) == ("nas", 3, {"nas": "file:///mnt/nas"})
    assert loaded.manifest_key_path == tmp_path / "manifest.key"
    file.write_text('[stores.urls]\n"Not A Name" = "file:///mnt/nas"\n')
    with pytest.raises(ConfigError):
        config.load(environment)
