"""A variable of ours that is no setting is named; those that others set are left alone."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tidelog.settings import Settings, misspelt


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TIDELOG_DATABSE_URL", "TIDELOG_DATABASE_URL"),
        ("TIDELOG_DB_URL", "TIDELOG_DATABASE_URL"),
        ("TIDELOG_DATABASEURL", "TIDELOG_DATABASE_URL"),
        ("tidelog_step_dir", "TIDELOG_STEPS_DIR"),
        ("TIDELOG_POOL_SIZE", "TIDELOG_POOL_SIZE_MAX"),
        ("TIDELOG_RETENTION", "TIDELOG_RETENTION_SECONDS"),
    ],
)
def test_a_misspelt_name_is_told_with_the_one_that_it_is_like(name: str, meant: str) -> None:
    """In either case of letters, as settings are read."""
    assert misspelt({name: "x", "PATH": "/bin"}) == [f"{name} is no setting: did you mean {meant}?"]


def test_a_name_like_none_is_told_all_the_same() -> None:
    """Somebody set it, and it would do nothing."""
    (told,) = misspelt({"TIDELOG_QUANTUM": "1"})
    assert told.startswith("TIDELOG_QUANTUM is no setting: ")


def test_variables_of_scripts_tests_and_clusters_are_no_misspellings() -> None:
    """Kubernetes and Docker set a dozen for a service that is called tidelog, or tidelog-db."""
    links = {
        "TIDELOG_SERVICE_HOST": "10.0.0.1",
        "TIDELOG_SERVICE_PORT": "3000",
        "TIDELOG_SERVICE_PORT_HTTP": "3000",
        "TIDELOG_PORT_3000_TCP": "tcp://10.0.0.1:3000",
        "TIDELOG_PORT_3000_TCP_ADDR": "10.0.0.1",
        "TIDELOG_DB_SERVICE_HOST": "10.0.0.2",
        "TIDELOG_DB_PORT": "tcp://10.0.0.2:5432",
        "TIDELOG_DB_PORT_5432_TCP_PROTO": "tcp",
    }
    others = {"TIDELOG_PYTHON": "python3.12", "TIDELOG_TEST_NO_SKIP": "1", "TIDELOGGER": "1"}
    settings = {f"TIDELOG_{name.upper()}": "x" for name in Settings.model_fields}
    assert misspelt(links | others | settings) == []


def test_the_port_that_a_cluster_sets_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a service of the very name, it takes the place of the setting."""
    monkeypatch.setenv("TIDELOG_PORT", "tcp://10.0.0.1:3000")
    with pytest.raises(ValidationError, match="Kubernetes sets it so"):
        Settings()


def test_a_url_from_a_file_is_trimmed_and_none_is_not_the_embedded_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """White space around it is nobody's password; an empty one is a variable that somebody forgot to fill."""
    monkeypatch.setenv("TIDELOG_DATABASE_URL", " postgresql://h/d\n")
    assert Settings().database_url == "postgresql://h/d"
    for empty in ("", " \n"):
        monkeypatch.setenv("TIDELOG_DATABASE_URL", empty)
        with pytest.raises(ValidationError, match="unset it for the embedded Postgres"):
            Settings()
