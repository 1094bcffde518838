from __future__ import annotations

import sys

import pytest

import reverie as rv
from reverie.cli import main


def test_version_names_reverie_and_torch(call):
    done = call("--version")
    assert done.exit_code == 0
    assert done.output.startswith(f"reverie {rv.__version__} (torch ")


def test_help_lists_the_commands(call):
    shown = call("--help").output
    for command in ("sample", "solvers", "plan", "train", "demo"):
        assert command in shown


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (
            "sample",
            "--count --seed --start --solver --steps --nfe --grid --end --option --plan --guide --batch --out --columns --scale",
        ),
        ("solvers", "--json"),
        ("plan", "--process --steps --nfe --grid --end --option --out --check-order"),
        ("train", "--out --steps --fresh"),
        ("demo", "--out --model --samples --seed"),
    ],
)
def test_help_of_a_command_teaches(call, command, options):
    done = call(command, "--help")
    assert done.exit_code == 0
    assert "Examples" in done.output
    assert f"  reverie {command}" in done.output
    for option in options.split():
        assert option in done.output


def test_an_unknown_command_or_option_suggests(call):
    assert "sample" in call("sampel").output.split("No such command")[1]
    wrong = call("plan", "ddim", "--step", "3")
    assert wrong.exit_code == 2
    assert "--steps" in wrong.output.split("No such option")[1]


def test_an_error_is_one_line_and_code_2(call):
    done = call("plan", "dpmpp2m")
    assert done.exit_code == 2
    lines = done.output.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: unknown solver 'dpmpp2m'; did you mean 'dpmpp-2m'")


@pytest.mark.parametrize("words", [("--debug", "plan", "dpmpp2m"), ("plan", "dpmpp2m", "--debug")])
def test_debug_anywhere_lets_the_error_through(call, words):
    assert isinstance(call(*words).exception, rv.ReverieError)


def test_an_error_that_is_not_ours_is_not_hidden(call, monkeypatch):
    monkeypatch.setattr("reverie.cli.parse.process", lambda text: 1 / 0)
    assert isinstance(call("plan", "ddim").exception, ZeroDivisionError)


def test_ctrl_c_anywhere_exits_130(call, monkeypatch):
    def stop(text):
        raise KeyboardInterrupt

    monkeypatch.setattr("reverie.cli.parse.process", stop)
    done = call("plan", "ddim")
    assert (done.exit_code, done.output.strip()) == (130, "stopped: interrupted")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_typer_main_says_how_to_install(monkeypatch, capsys, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 2
    assert "pip install 'reverie[cli]'" in capsys.readouterr().err


def test_help_does_not_wait_for_torch():
    import subprocess

    code = "import sys; from reverie.cli import main\ntry: main(['--help'])\nexcept SystemExit: sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
