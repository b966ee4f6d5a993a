"""What docs/tasks.md tells of tasks, heads and protocols is what the code has, and its example is a head."""

import importlib
import re

import pytest
import torch
from test_docs import DOCS, rows

from wavbench.benchmark import cli
from wavbench.downstream.fold import HEADS, statistics_of
from wavbench.downstream.spec import SUPERB_RATES, UTTERANCE_HEADS, Budget, load_task, task_names

PAGE = "tasks.md"
LOSSES = {
    "Classify": "cross-entropy",
    "Ctc": "CTC",
    "Transcribe": "CTC",
    "Verify": "AM-softmax",
    "Translate": "cross-entropy, smoothed by 0.1",
    "Frames": "cross-entropy per frame",
    "Joined": "cross-entropy per frame",
}
TASKS = {name: load_task(name) for name in task_names()}


def quoted(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def steps(budget: Budget) -> str:
    """A budget in the words of the page."""
    text = f"{budget.updates:,} x {budget.batch}"
    text += f" of at most {budget.seconds:,g} s of audio" if budget.seconds else ""
    text += f", {budget.crop:g} s of each" if budget.crop else ""
    return text + (f"; rates on {budget.search}" if budget.search else "")


def rates(budget: Budget) -> str:
    return " ".join(f"{rate:g}" for rate in budget.learning_rates)


def test_every_task_is_told_with_what_it_reads_and_what_is_scored() -> None:
    told = rows(PAGE, "| task | title | columns | heads | loss | metric |")
    assert set(told) == set(TASKS)
    for name, task in TASKS.items():
        heads, loss = quoted([task.head, *task.heads]), LOSSES[task.objective]
        assert told[name][1:] == [task.title, quoted(task.needs), heads, loss, task.metric.name], name


def test_every_head_is_told_with_what_it_is_fed() -> None:
    told = rows(PAGE, "| head | what it is | reads |")
    assert set(told) == {path.stem for path in HEADS.glob("*.py") if path.stem != "__init__"}
    names = {None: "frames", ("mean",): "means", ("mean", "std"): "means and deviations"}
    for name, cells in told.items():
        module = importlib.import_module(f"wavbench.downstream.heads.{name}")
        assert cells[2] == names[getattr(module, "STATISTICS", None)], name


def test_every_budget_of_the_clean_protocol_is_told() -> None:
    told = rows(PAGE, "| protocol clean | updates x utterances | learning rates |")
    expected = {f"classes {head}": budget for head, budget in UTTERANCE_HEADS.items()}
    for name, task in TASKS.items():
        expected[f"{name} {task.head}"] = task.budget
        if task.objective == "Classify":
            assert task.heads == UTTERANCE_HEADS, name
        else:
            expected |= {f"{name} {head}": budget for head, budget in task.heads.items()}
    assert set(told) == set(expected)
    for name, budget in expected.items():
        assert told[name][1:] == [steps(budget), rates(budget)], name
    column = load_task("classify-gender")
    assert (column.head, column.budget, column.heads) == (TASKS["er"].head, TASKS["er"].budget, TASKS["er"].heads)


def test_every_recipe_of_superb_is_told_with_what_differs() -> None:
    told = rows(PAGE, "| protocol superb | head | updates x utterances | gradient clip | differs |")
    recipes = {name: task.superb for name, task in TASKS.items() if task.superb}
    assert set(told) == set(recipes)
    for name, recipe in recipes.items():
        head, budget = recipe.head or TASKS[name].head, recipe.budget
        expected = [f"`{head}`", steps(budget), f"{budget.clip:g}", recipe.differs or "-"]
        assert told[name][1:] == expected, name
        assert budget.learning_rates == SUPERB_RATES
        assert (budget.warmup > 0) == (name == "st")
        assert (recipe.dev_share > 0, recipe.dev_is_test) == (name == "er", name == "asv")


def test_the_example_of_a_head_is_a_stack_of_heads() -> None:
    code = re.search(r"```python\n(.*?)```", (DOCS / PAGE).read_text(encoding="utf-8"), re.DOTALL)[1]
    made: dict = {}
    exec(code, made)
    torch.manual_seed(0)
    stack = made["build"](3, 6, 4)
    assert all(len(parameter) == 3 for parameter in stack.parameters())
    states = torch.randn(1, 5, 6).expand(3, -1, -1)
    outputs = stack(states)
    assert outputs.shape == (3, 5, 4)
    torch.testing.assert_close(outputs[0], outputs[2])  # the same weights to begin with
    outputs[1].sum().backward()
    for parameter in stack.parameters():
        assert parameter.grad[1].any()
        assert not parameter.grad[[0, 2]].any()
    assert made["STATISTICS"] == statistics_of(TASKS["asv"])


@pytest.mark.parametrize("name", ["README.md", "docs/finetuning.md", "docs/own_data.md"])
def test_the_page_can_be_found(name: str) -> None:
    assert "tasks.md)" in (DOCS.parent / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["README.md", "docs/tasks.md", "docs/finetuning.md", "docs/upstreams.md"])
def test_commands_of_the_pages_have_the_keys_that_they_are_given(name: str, capsys: pytest.CaptureFixture) -> None:
    page = (DOCS.parent / name).read_text(encoding="utf-8")
    fences = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    lines = [line for kind, block in fences for line in block.splitlines() if not kind and line.startswith("wavbench ")]
    assert lines
    for line in lines:
        words = re.split(r"\s{3,}", line)[0].split()[1:]  # explanations stand behind three blanks
        command = words[: 2 if words[0] in ("corpus", "store") else 1]
        # pretraining's keys depend on the objective
        assert cli.main([*command, *(word for word in words if word.startswith("objective=")), "--help"]) == 0, line
        known = set(re.findall(r"^  (\w+)=", capsys.readouterr().out, re.MULTILINE))
        given = {word.partition("=")[0] for word in words if "=" in word}
        assert given <= known, line
