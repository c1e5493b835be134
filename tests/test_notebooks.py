"""Every notebook, run from its first cell to its last on small real runs."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted([*ROOT.glob("*.ipynb"), *(ROOT / "write_and_test").glob("*.ipynb")])
NAVIGATION = (
    "--algo ppo --env-name Navigation-v0 --recurrent-policy --use-gae --use-proper-time-limits --no-normalize-env "
    "--num-processes 16 --num-steps 64 --num-mini-batch 4 --num-env-steps 6144 --env-kwargs max_steps=40 "
    "--log-interval 1 --save-dir= --torch-threads 1 --nn-base FlexBase "
    "--nn-base-kwargs num_layers=2 num_shared_layers=1"
)
HEADS = "auxiliary_heads=[(1,-1,'position'),(1,-1,'heading')]"


def test_there_are_the_four_notebooks_and_none_holds_outputs():
    names = [path.name for path in NOTEBOOKS]
    assert names == ["visualize.ipynb", "auxiliary_tasks.ipynb", "hidden_states.ipynb", "train_and_queue.ipynb"]
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                assert cell.outputs == []
                assert cell.execution_count is None


def test_the_readmes_jupyter_lab_is_installed_with_the_rest():
    assert "jupyter lab visualize.ipynb" in (ROOT / "README.md").read_text()
    pinned = dict(line.split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    answer = subprocess.run([sys.executable, "-m", "jupyterlab", "--version"], capture_output=True, text=True)
    assert (answer.returncode, answer.stdout.strip()) == (0, pinned["jupyterlab"])
    assert '"jupyterlab>=' in (ROOT / "setup.py").read_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two agents of the arena, with heads and without."""
    folder = tmp_path_factory.mktemp("runs")
    for name, more in {"heads": [HEADS], "gru": []}.items():
        command = [sys.executable, "main.py", *shlex.split(NAVIGATION), *more, "--log-dir", str(folder / name)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """This interpreter as the kernel `here`, for this test alone."""
    folder = tmp_path / "jupyter" / "kernels" / "here"
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": "here", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    return "here"


def execute(path, kernel, replaced):
    """Run a notebook whose cell of parameters is replaced; returns its pictures and the text that it showed."""
    notebook = nbformat.read(path, as_version=4)
    parameters = next(cell for cell in notebook.cells if cell.cell_type == "code" and "FIGURES =" in cell.source)
    assert set(replaced) <= {line.split(" = ")[0] for line in parameters.source.splitlines()}
    parameters.source += "".join(f"\n{name} = {value}" for name, value in replaced.items())
    NotebookClient(
        notebook, timeout=240, kernel_name=kernel, resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    return pictures, "".join(str(output.get("text", "")) + str(output.get("data", {})) for output in outputs)


def pictures_in(folder):
    return {path.stem for path in folder.glob("*.png") if path.stat().st_size > 5000}


def test_train_and_queue(tmp_path, kernel):
    base = dict(algo="ppo", env_name="CartPole-v1", preset="classic", num_env_steps=2000)
    replaced = {
        "QUEUE": f"Path({str(tmp_path / 'queue')!r})",
        "BASE": repr(base),
        "VARY": "dict(lr=[1e-3], seed=[1, 2])",
        "FIGURES": f"Path({str(tmp_path / 'figures')!r})",
    }
    pictures, text = execute(ROOT / "write_and_test" / "train_and_queue.ipynb", kernel, replaced)
    assert "2 finished" in text
    assert len(pictures) == 1
    assert pictures_in(tmp_path / "figures") == {"queue"}


def test_hidden_states(tmp_path, kernel):
    replaced = {
        "QUEUE": f"Path({str(tmp_path / 'queue')!r})",
        "STEPS": "4096",
        "EPISODES": "12",
        "FIGURES": f"Path({str(tmp_path / 'figures')!r})",
    }
    pictures, text = execute(ROOT / "write_and_test" / "hidden_states.ipynb", kernel, replaced)
    assert "starting, attempt 1" in text
    assert "finished at 4,096 steps" in text
    assert "observation alone" in text
    assert len(pictures) == 9
    assert pictures_in(tmp_path / "figures") == {
        *("paths", "paths_values", "pca_heading", "pca_distance", "decoding", "position_trained", "position_untrained"),
        *("activation_maps", "occupancy"),
    }


def test_auxiliary_tasks(tmp_path, kernel, trained):
    replaced = {
        "WITH": f"Path({str(trained / 'heads')!r})",
        "WITHOUT": f"Path({str(trained / 'gru')!r})",
        "EPISODES": "4",
        "FIGURES": f"Path({str(tmp_path / 'figures')!r})",
    }
    pictures, text = execute(ROOT / "write_and_test" / "auxiliary_tasks.ipynb", kernel, replaced)
    assert "base.gru" in text
    assert len(pictures) == 5
    assert pictures_in(tmp_path / "figures") == {
        *("heads_return", "heads_losses", "along_position", "along_heading", "gradient_cosines"),
    }


@pytest.mark.parametrize("values", [["return", "length"], ["losses/entropy"]], ids=["monitor", "tensorboard"])
def test_visualize(tmp_path, kernel, trained, values):
    begun = tmp_path / "begun"  # without an episode or a metric yet
    begun.mkdir()
    for name in ("config.json", "command.txt"):
        shutil.copy(trained / "gru" / name, begun)
    replaced = {
        "PLACES": f"[Path({str(trained)!r}), Path({str(begun)!r})]",
        "VALUES": repr(values),
        "FIGURES": f"Path({str(tmp_path / 'figures')!r})",
    }
    pictures, text = execute(ROOT / "visualize.ipynb", kernel, replaced)
    assert all(f"no {value} yet in begun" in text for value in values)
    assert len(pictures) == 2 * len(values)
    names = [value.replace("/", "_") for value in values]
    assert pictures_in(tmp_path / "figures") == {*names, *(f"{name}_runs" for name in names)}
