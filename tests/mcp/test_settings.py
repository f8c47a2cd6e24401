"""Settings: one environment variable each, and errors that name the variable."""

from typing import Any

import pytest

from core.errors import InvalidArgument
from server.settings import DEFAULT_TOOLSETS, PREFIX, TOOLSETS, Settings, load_settings


@pytest.mark.parametrize("blank", ["", "   ", "${user_config.anything}", "${HEABLCOIN_CLOUD_X}"])
@pytest.mark.parametrize("name", Settings.model_fields)
def test_an_empty_or_unfilled_value_counts_as_unset(monkeypatch: pytest.MonkeyPatch, name: str, blank: str) -> None:
    monkeypatch.delenv(f"{PREFIX}DATABASE", raising=False)
    monkeypatch.setenv(PREFIX + name.upper(), blank)
    assert getattr(load_settings(), name) == Settings.model_fields[name].default


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("toolsets", "tasks, workers", ("tasks", "workers")),
        ("toolsets", "all", TOOLSETS),
        ("read_only", "true", True),
        ("read_only", "0", False),
        ("allow_hosts", "localhost:11434,10.0.0.0/8", ("localhost:11434", "10.0.0.0/8")),
        ("keys", "file", "file"),
        ("concurrency", "3", 3),
        ("lease", "12.5", 12.5),
        ("synchronous", "normal", "NORMAL"),
        ("when_limited", "wait", "wait"),
        ("max_per_minute", "60", 60),
        ("log_level", "debug", "DEBUG"),
        ("http_hosts", "queue.lan", ("queue.lan",)),
    ],
)
def test_a_variable_is_read(monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: Any) -> None:
    monkeypatch.setenv(PREFIX + name.upper(), text)
    assert getattr(load_settings(), name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("concurrency", "many-secret"),
        ("concurrency", "-1"),
        ("lease", "0"),
        ("keys", "drawer-secret"),
        ("read_only", "perhaps-secret"),
        ("toolsets", "tasks,nonsense"),
        ("log_level", "loud-secret"),
        ("when_limited", "never-secret"),
        ("max_per_minute", "-1"),
        ("retention_days", "nan"),
        ("ageing", "-1"),
        ("ageing", "old-secret"),
    ],
)
def test_a_bad_variable_is_named_with_what_it_may_be_and_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(PREFIX + name.upper(), text)
    with pytest.raises(InvalidArgument) as caught:
        load_settings()
    said = str(caught.value)
    assert PREFIX + name.upper() in said
    assert "Fix:" in said
    assert "secret" not in said


def test_several_bad_variables_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEABLCOIN_CLOUD_LEASE", "x")
    monkeypatch.setenv("HEABLCOIN_CLOUD_CONCURRENCY", "x")
    with pytest.raises(InvalidArgument, match=r"(?s)HEABLCOIN_CLOUD_.*HEABLCOIN_CLOUD_"):
        load_settings()


def test_the_command_line_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEABLCOIN_CLOUD_DATABASE", "/from/environment")
    assert load_settings(database="/from/option").database == "/from/option"
    assert load_settings(database=None).database == "/from/environment"


def test_a_home_directory_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEABLCOIN_CLOUD_DATABASE", "~/queue.db")
    assert "~" not in load_settings().database


def test_the_token_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEABLCOIN_CLOUD_TOKEN", "very-secret-token")
    assert "very-secret" not in repr(load_settings())
    assert load_settings().token.get_secret_value() == "very-secret-token"


def test_the_default_is_every_toolset_but_the_legacy_one() -> None:
    assert set(TOOLSETS) - set(DEFAULT_TOOLSETS) == {"legacy"}


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
