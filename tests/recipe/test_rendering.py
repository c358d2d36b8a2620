# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a run's prompts is said before Ray; the override that is offered works when it is pasted."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf, open_dict

from recipe.agpo.plan import prompts as plan_prompts
from recipe.agpo.preflight import find_problems, find_warnings, rendering
from recipe.agpo.preflight.template_fixes import KEY, override
from tests.recipe.test_preflight import only
from tests.standins import tokenizers as standins

PLAIN = "{% for message in messages %}{{ message['content'] }}{{ '\n' }}{% endfor %}"
SHORT = [{"role": "user", "content": "1+1"}]
ROWS = [SHORT, standins.USER, [{"role": "user", "content": "2+2"}]]
Run = Callable[..., Any]


def write(path: Path, rows: list[Any], columns: dict[str, Any]) -> None:
    import pyarrow
    import pyarrow.parquet

    given = {"data_source": "chain_sum", "reward_model": {"style": "rule", "ground_truth": "1"}, **columns}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"prompt": row, **given} for row in rows]), path)


@pytest.fixture
def run(tmp_path: Path, good_config: Run) -> Run:
    """A run with a tokenizer and prompts: ``run(tokenizer, rows, custom template, **data settings)``."""

    def build(
        tokenizer: Any, rows: list[Any] = ROWS, custom: str | None = None, model_type: str = "llama", **data: Any
    ) -> Any:
        columns = data.pop("columns", {})
        shutil.rmtree(tmp_path / "model")
        standins.save(tokenizer, tmp_path / "model", model_type)
        write(tmp_path / "train.parquet", rows, columns)
        config = good_config("data.train_batch_size=2", "actor_rollout_ref.actor.ppo_mini_batch_size=1")
        with open_dict(config):
            config.actor_rollout_ref.model.custom_chat_template = custom
            config.data.update(data)
        return config

    return build


def prompt_problems(config: Any) -> list[str]:
    return list(rendering.rendered(config, None))  # type: ignore[arg-type]


def paste(config: Any, problem: str) -> Any:
    """The config with the override that the problem ends in, read by a shell and by Hydra."""
    words = shlex.split(problem.rpartition(" Set ")[2])
    assert len(words) == 1 and "chat_template" in words[0], words
    parsed = OverridesParser.create().parse_override(words[0])
    with open_dict(config):
        OmegaConf.update(config, parsed.key_or_group, parsed.value(), force_add=parsed.is_force_add())
    return config


# ---- what works is not refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize(
    ("tokenizer", "custom", "model_type"),
    [
        (standins.llama3, None, "llama"),
        (standins.gemma2, None, "gemma2"),
        (standins.qwen, None, "qwen2"),
        (lambda: standins.llama3(None), "{{ bos_token }}" + PLAIN, "llama"),
        (lambda: standins.llama3(None), "<|begin_of_text|>" + PLAIN, "llama"),
        (lambda: standins.qwen(None), "{{ bos_token }}" + PLAIN, "qwen2"),
        (lambda: standins.qwen(None), PLAIN, "qwen2"),
        # A mark of turns that the tokenizer calls BOS and never adds, as in some ChatML models.
        (
            lambda: standins.byte_level(
                ["<|im_start|>", "<|im_end|>"],
                template=standins.QWEN_TEMPLATE,
                bos_token="<|im_start|>",
                eos_token="<|im_end|>",
            ),
            PLAIN,
            "llama",
        ),
        # One token for BOS, EOS and the end of a turn.
        (
            lambda: standins.byte_level(["</s>"], adds_bos=True, bos_token="</s>", eos_token="</s>"),
            "{% for m in messages %}{{ bos_token }}{{ m['content'] }}{% endfor %}{{ eos_token }}",
            "opt",
        ),
        # BOS before every turn of a user, as Llama-2's template has it.
        (
            lambda: standins.llama3(None),
            "{% for m in messages %}{{ bos_token if m['role'] == 'user' }}{{ m['content'] }}{% endfor %}",
            "llama",
        ),
    ],
)
def test_good_prompts(run: Run, tokenizer: Any, custom: str | None, model_type: str, filtered: bool) -> None:
    config = run(tokenizer(), [*ROWS, standins.TURNS], custom, model_type, filter_overlong_prompts=filtered)
    assert prompt_problems(config) == []
    assert list(rendering.warnings(config)) == []


def test_without_the_tokenizer_nothing_is_judged(good_config: Run) -> None:
    assert prompt_problems(good_config("actor_rollout_ref.model.path=somebody/model")) == []
    assert prompt_problems(good_config()) == []


def test_a_data_set_class_of_the_user_makes_its_own_prompts(run: Run) -> None:
    assert prompt_problems(run(standins.llama3(None), custom_cls={"path": "mine.py", "name": "Mine"})) == []


def test_other_agent_loops_make_their_own_prompts(run: Run) -> None:
    config = run(standins.llama3(None), columns={"agent_name": "mine"}, filter_overlong_prompts=False)
    assert prompt_problems(config) == []


def test_rows_with_images_are_left_to_verl(run: Run) -> None:
    columns = {"images": ["a.png"]}
    assert prompt_problems(run(standins.qwen(), model_type="qwen2", columns=columns, max_prompt_length=3)) == []


def test_arguments_of_the_template_count(run: Run) -> None:
    """The switch adds a text; with it the prompt is too long."""
    tokenizer = standins.qwen()
    limit = len(tokenizer.apply_chat_template(SHORT, add_generation_prompt=True)["input_ids"])
    config = run(tokenizer, [SHORT] * 2, model_type="qwen2", max_prompt_length=limit)
    assert prompt_problems(config) == []
    with open_dict(config):
        config.data.apply_chat_template_kwargs = {"enable_thinking": False}
    assert "leaves none of 2 prompts" in prompt_problems(config)[0]


# ---- BOS -----------------------------------------------------------------------------------------------------------

LITERAL = [{"role": "user", "content": "<bos>1+1"}]
PER_MESSAGE = "{% for m in messages %}{{ bos_token }}{{ m['content'] }}{% endfor %}"
NAMED = {"bos_token": "<s>", "eos_token": "</s>"}


def named(template: str | None) -> Any:
    """A BOS that the tokenizer does not add: ``add_bos_token=false``."""
    return standins.byte_level(["<s>", "</s>"], template=template, **NAMED)


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize(
    ("tokenizer", "custom", "prompts", "says"),
    [
        (lambda: standins.llama3(None), PLAIN, ROWS, "BOS missing: 3 of the first 3"),
        (lambda: standins.gemma2(None), PLAIN, ROWS, "BOS missing: 3 of the first 3"),
        (lambda: standins.gemma2(PLAIN), None, ROWS, "the chat template of"),
        (lambda: standins.gemma2(None), "{{ '\n' }}{{ bos_token }}" + PLAIN, ROWS, "BOS missing"),
        (lambda: standins.gemma2(None), "{{ bos_token if messages | length > 1 }}" + PLAIN, ROWS, "BOS missing"),
        (lambda: named("{{ bos_token }}" + PLAIN), PLAIN, ROWS, "the model's own template begins with it"),
        (lambda: standins.gemma2(None), "{{ bos_token }}<bos>" + PLAIN, ROWS, "BOS doubled: 3 of the first 3"),
        (lambda: standins.gemma2("{{ bos_token }}{{bos_token}}" + PLAIN), None, ROWS, "BOS doubled"),
        (lambda: standins.gemma2("<bos><bos>" + PLAIN), None, ROWS, "BOS doubled"),
        (lambda: standins.gemma2(None), PER_MESSAGE, [*ROWS, standins.TURNS], "BOS doubled: 1 of the first 4"),
        (lambda: standins.gemma2(None), "{{ bos_token }}" + PLAIN, [LITERAL] * 3, "the text of the data contains it"),
        (lambda: standins.gemma2(None), "{{ bos_token }}" + PLAIN, [*ROWS, LITERAL], "BOS doubled: 1 of the first 4"),
    ],
)
def test_bos(run: Run, tokenizer: Any, custom: str | None, prompts: list[Any], says: str, filtered: bool) -> None:
    config = run(tokenizer(), prompts, custom, filter_overlong_prompts=filtered)
    problems = prompt_problems(config)
    only(problems, "BOS", says)
    assert prompt_problems(paste(config, problems[0])) == []


def test_start_tokens_without_a_name(run: Run) -> None:
    """Two special tokens that only the post-processor knows."""
    from tokenizers import processors

    tokenizer = standins.byte_level(["[gMASK]", "<sop>"], template=PLAIN)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[gMASK] <sop> $A", pair="$A $B", special_tokens=[("[gMASK]", 0), ("<sop>", 1)]
    )
    config = run(tokenizer)
    problems = prompt_problems(config)
    only(problems, "BOS missing", "[gMASK]")
    assert prompt_problems(paste(config, problems[0])) == []


# ---- the template --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize(
    ("tokenizer", "custom", "prompts", "says"),
    [
        (lambda: standins.llama3(None), None, ROWS, "no chat template"),
        (lambda: standins.qwen(None), None, ROWS, "no chat template"),
        (standins.llama3, "{% for", ROWS, "TemplateSyntaxError"),
        (lambda: standins.llama3(None), "{% for", ROWS, "custom_chat_template cannot render 3 of the first 3"),
        (standins.qwen, "{{ messages[0].text.strip() }}", ROWS, "UndefinedError"),
        (standins.llama3, "", ROWS, "does not use the messages"),
        (standins.gemma2, "{{ bos_token }}Hello", ROWS, "does not use the messages"),
        (standins.gemma2, None, [standins.WITH_SYSTEM] * 3, "refuses the role 'system' of 3 of the first 3"),
        (standins.gemma2, None, [[{"role": "assistant", "content": "2"}, *SHORT]] * 3, "must alternate"),
    ],
)
def test_templates(run: Run, tokenizer: Any, custom: str | None, prompts: list[Any], says: str, filtered: bool) -> None:
    model_type = "qwen2" if tokenizer().bos_token is None else "llama"
    config = run(tokenizer(), prompts, custom, model_type, filter_overlong_prompts=filtered)
    problems = prompt_problems(config)
    only(problems, says)
    assert prompt_problems(paste(config, problems[0])) == []


def test_a_system_role_in_some_rows(run: Run) -> None:
    """The filter leaves them out, which is said; without it their rollouts get another prompt than they should."""
    rows = [standins.WITH_SYSTEM, *ROWS]
    config = run(standins.gemma2(), rows, filter_overlong_prompts=True)
    assert prompt_problems(config) == []
    warnings = list(rendering.warnings(config))
    only(warnings[:1], "leaves out 1 of the first 4 prompts", "System role not supported")
    only(prompt_problems(run(standins.gemma2(), rows, filter_overlong_prompts=False)), "refuses the role 'system' of 1")


def test_too_few_rows_without_those_that_raise(run: Run) -> None:
    config = run(standins.gemma2(), [standins.WITH_SYSTEM] * 3 + [SHORT], filter_overlong_prompts=True)
    problems = prompt_problems(config)
    only(problems, "refuses the role 'system' of 3 of the first 4")
    assert prompt_problems(paste(config, problems[0])) == []


def test_what_only_the_filter_drops(run: Run) -> None:
    """A conversation without a user: the rollout renders it in a second try, the filter has none."""
    template = standins.QWEN_TEMPLATE.replace(
        "{% for", "{{ raise_exception('no user') if messages[0]['role'] != 'user' }}{% for", 1
    )
    rows = [[{"role": "assistant", "content": f"{i}"}] for i in range(3)]
    config = run(standins.qwen(template), rows, model_type="qwen2", filter_overlong_prompts=True)
    only(prompt_problems(config), "no user", "data.filter_overlong_prompts=False")
    config.data.filter_overlong_prompts = False
    assert prompt_problems(config) == []


@pytest.mark.parametrize("template", [PLAIN, "{% for", "{{ bos_token }}{{ bos_token }}" + PLAIN, ""])
@pytest.mark.parametrize("custom", [None, "{{ bos_token }}" + PLAIN])
def test_a_template_among_the_arguments_takes_precedence(run: Run, template: str, custom: str | None) -> None:
    config = run(standins.llama3(None), ROWS, custom, apply_chat_template_kwargs={"chat_template": template})
    problems = prompt_problems(config)
    only(problems, "data.apply_chat_template_kwargs.chat_template")
    assert prompt_problems(paste(config, problems[0])) == []


def test_several_templates_by_name(run: Run) -> None:
    """transformers takes ``default``."""
    good = {"default": standins.LLAMA3_TEMPLATE, "tool_use": "{{ tools }}"}
    assert prompt_problems(run(standins.llama3(good))) == []
    problems = prompt_problems(config := run(standins.llama3({"default": PLAIN, "tool_use": PLAIN})))
    only(problems, "BOS missing")
    assert prompt_problems(paste(config, problems[0])) == []
    only(prompt_problems(run(standins.llama3({"tool_use": PLAIN, "rag": PLAIN}))), "cannot render")


def test_arguments_that_verl_passes_itself(run: Run) -> None:
    for name in ("tokenize", "return_dict", "tools", "add_generation_prompt"):
        config = run(standins.llama3(), apply_chat_template_kwargs={name: False})
        only(prompt_problems(config), f"data.apply_chat_template_kwargs.{name}=False", "Leave")


def test_the_token_builder_refuses_the_tokenizer(run: Run) -> None:
    """verl's builder for MiniMax needs a special token of that family."""
    only(prompt_problems(run(standins.llama3(), model_type="minimax")), "model_type=minimax", "refuses the tokenizer")


def test_text_in_place_of_messages(run: Run) -> None:
    config = run(standins.llama3(), ["it's 1+1", "2+2"])
    config.data.val_files = []
    problems = prompt_problems(config)
    only(problems, 'prompt="it\'s 1+1" is str', "letter by letter")
    command = shlex.split(problems[0].partition("This rewrites the file: ")[2])
    assert command[:2] == ["python", "-c"]
    exec(command[2], {})
    assert prompt_problems(config) == []


def test_a_row_without_a_prompt(run: Run) -> None:
    only(prompt_problems(run(standins.llama3(), [*ROWS, None]))[:1], "row 3", "prompt=None")


# ---- lengths -------------------------------------------------------------------------------------------------------


def length(tokenizer: Any, messages: Any) -> int:
    return len(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])


def test_prompts_over_the_limit(run: Run) -> None:
    tokenizer = standins.llama3()
    longest = length(tokenizer, standins.USER)
    config = run(tokenizer, max_prompt_length=longest - 1, filter_overlong_prompts=False)
    config.data.val_files = []
    only(
        prompt_problems(config),
        "1 of the first 3 prompts",
        f"data.max_prompt_length={longest - 1}",
        f"data.max_prompt_length={longest},",
        "data.filter_overlong_prompts=True",
    )
    config.data.truncation = "left"
    assert prompt_problems(config) == []
    only(list(rendering.warnings(config)), "lose their beginning", f"data.max_prompt_length={longest}")
    config.data.truncation = "error"
    config.data.max_prompt_length = longest
    assert prompt_problems(config) == [] and list(rendering.warnings(config)) == []


def test_the_filter_leaves_nothing_or_too_little(run: Run) -> None:
    tokenizer = standins.llama3()
    short, longest = length(tokenizer, SHORT), length(tokenizer, standins.USER)
    config = run(tokenizer, [SHORT, standins.USER, standins.USER], filter_overlong_prompts=True)
    config.data.max_prompt_length = short - 1
    none = prompt_problems(config)
    assert len(none) == 2 and all("leaves none of 3 prompts" in problem for problem in none)
    assert f"Set data.max_prompt_length={longest}." in none[0] and "data.val_files" in none[1]
    config.data.max_prompt_length = short
    only(prompt_problems(config), "leaves 1 of 3", f"data.max_prompt_length={longest}", "data.train_batch_size=1")
    for fixed in ({"train_batch_size": 1}, {"max_prompt_length": longest}):
        assert prompt_problems(run(tokenizer, [SHORT, standins.USER, standins.USER], **fixed)) == []


def test_rows_after_the_first_are_counted_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first prompts are too long, a batch of the later ones is not."""
    monkeypatch.setattr(plan_prompts, "MAX_PROMPTS", 2)
    tokenizer = standins.llama3()
    limit = {"filter_overlong_prompts": True, "max_prompt_length": length(tokenizer, SHORT)}
    assert prompt_problems(run(tokenizer, [standins.USER] * 3 + [SHORT] * 2, **limit)) == []
    only(prompt_problems(run(tokenizer, [standins.USER] * 3 + [SHORT], **limit)), "leaves 1 of 4 prompts")


def test_fewer_samples_than_a_batch(run: Run) -> None:
    config = run(standins.llama3(), train_max_samples=1)
    only(find_problems(config), "holds 1 prompts (data.train_max_samples)", "data.train_batch_size=1 or less")


# ---- tools ---------------------------------------------------------------------------------------------------------

TOOL = '''
from verl.tools.function_tool import function_tool

@function_tool{arguments}
def {name}(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b
'''


def with_tools(config: Any, path: Path, agent: str | None) -> Any:
    config.actor_rollout_ref.rollout.multi_turn.function_tool_path = str(path)
    if agent is not None:
        config.actor_rollout_ref.rollout.agent.default_agent_loop = agent
    return config


def test_tools_are_in_the_prompt(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "tools_good.py"
    path.write_text(TOOL.format(arguments="", name="add_up"))
    config = with_tools(run(standins.qwen(), model_type="qwen2"), path, "tool_agent")
    assert prompt_problems(config) == [] and list(rendering.warnings(config)) == []
    found = plan_prompts.examine(config)
    assert '"name": "add_up"' in found.run.tokenizer.decode(found.prompts["train_files"][0].ids)


def test_tools_that_nobody_is_told_of(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "tools_unused.py"
    path.write_text(TOOL.format(arguments="", name="unused"))
    config = with_tools(run(standins.qwen(), model_type="qwen2"), path, None)
    only(list(rendering.warnings(config)), "single_turn_agent passes no tools", "default_agent_loop=tool_agent")
    config = with_tools(run(standins.llama3()), path, "tool_agent")
    assert prompt_problems(config) == []
    only(list(rendering.warnings(config)), "tools unused", "does not print tools")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("raises", "1 / 0", "ZeroDivisionError"),
        ("schema", TOOL.format(arguments="(schema={'type': 'function'})", name="broken"), "ValidationError"),
        ("untyped", TOOL.format(arguments="", name="untyped").replace("a: int", "a"), "untyped"),
    ],
)
def test_tools_that_verl_cannot_load(run: Run, tmp_path: Path, name: str, text: str, says: str) -> None:
    path = tmp_path / f"tools_{name}.py"
    path.write_text(text)
    config = with_tools(run(standins.qwen(), model_type="qwen2"), path, "tool_agent")
    only(
        prompt_problems(config), f"function_tool_path={path}", "cannot load the tools", says, "function_tool_path=null"
    )


def test_a_template_that_raises_with_tools(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "tools_refused.py"
    path.write_text(TOOL.format(arguments="", name="refused"))
    template = "{{ raise_exception('no tools here') if tools }}" + standins.QWEN_TEMPLATE
    config = with_tools(run(standins.qwen(template), model_type="qwen2"), path, "tool_agent")
    problems = prompt_problems(config)
    only(problems, "no tools here", "with the 1 tool(s)")
    assert prompt_problems(paste(config, problems[0])) == []


# ---- the override --------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab'\"\\ \n{}%$,=[]()#é", max_size=20))
def test_any_text_survives_shell_hydra_and_omegaconf(text: str) -> None:
    if "\\${" in text:
        return  # an interpolation that is escaped already: no template has one
    (word,) = shlex.split(override(text))
    parsed = OverridesParser.create().parse_override(word)
    config = OmegaConf.create()
    OmegaConf.update(config, parsed.key_or_group, parsed.value())
    assert parsed.key_or_group == KEY and OmegaConf.select(config, KEY) == text


def test_the_checks_of_a_run_include_the_prompts(run: Run) -> None:
    only(find_problems(run(standins.llama3(None))), "no chat template")
    rows = [standins.WITH_SYSTEM, *ROWS]
    assert any("leaves out 1" in line for line in find_warnings(run(standins.gemma2(), rows)))
