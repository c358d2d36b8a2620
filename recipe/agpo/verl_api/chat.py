# SPDX-License-Identifier: Apache-2.0
"""verl's own way from a row's messages to the token ids of a prompt.

Read in verl 0.9.1: ``HFModelConfig`` loads tokenizer and processor and sets ``custom_chat_template``; the filter of
``RLHFDataset`` renders without the agent loop's second try and drops a row that raises; ``AgentLoopBase`` builds the
prompt with a token builder that ``config.json``'s ``model_type`` selects. ``single_turn_agent`` passes no tools,
``tool_agent`` passes those of the config.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

SINGLE_TURN, TOOL_AGENT = "single_turn_agent", "tool_agent"
IN_KWARGS = "chat_template"  # an argument of the template that takes the place of every other


@dataclass(frozen=True)
class RunPrompts:
    """What a run renders with.

    Attributes:
        tokenizer, processor: as verl loads them; the processor is None for models without images.
        model_type: of the model's ``config.json``.
        template_kwargs: ``data.apply_chat_template_kwargs``.
        processor_kwargs: ``data.mm_processor_kwargs``.
        tools: name and schema of each tool, in verl's order.
    """

    tokenizer: Any
    processor: Any
    model_type: str | None
    template_kwargs: Mapping[str, Any]
    processor_kwargs: Mapping[str, Any]
    tools: tuple[tuple[str, dict[str, Any]], ...] = ()

    @cached_property
    def builder(self) -> Any:
        """verl's token builder.

        Raises:
            ValueError: it refuses this tokenizer; so will every agent loop.
        """
        from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

        with quiet():
            return create_continuous_token_builder(
                self.tokenizer,
                hf_model_type=self.model_type,
                chat_template_kwargs=self.template_kwargs,
                mm_processor_kwargs=self.processor_kwargs,
                processor=self.processor,
            )

    def tokens(self, messages: Sequence[Any], tools: Sequence[dict[str, Any]] | None) -> list[int]:
        """The prompt that the rollout sends to vLLM, before it is cut to ``rollout.prompt_length``."""
        return list(self.builder.build_initial_tokens(list(messages), tools=tools))

    def filter_length(self, messages: Sequence[Any]) -> int:
        """The length that ``data.filter_overlong_prompts`` compares; where this raises, verl drops the row."""
        from verl.utils.tokenizer import normalize_token_ids

        kwargs = dict(self.template_kwargs)
        if self.tools:
            kwargs["tools"] = [schema for _, schema in self.tools]
        if self.processor is not None:
            text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **kwargs)
            return len(self.processor.tokenizer(text=text, add_special_tokens=False)["input_ids"])
        for name in ("tokenize", "return_dict", "return_tensors"):
            kwargs.pop(name, None)
        found = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, **kwargs)
        return len(normalize_token_ids(found))

    def agent_tools(self, agent: str, selection: Sequence[str] | None) -> list[dict[str, Any]] | None:
        """The schemas that an agent loop of verl passes to the template."""
        if agent != TOOL_AGENT:
            return None
        return [schema for name, schema in self.tools if not selection or name in selection]

    @property
    def template(self) -> Any:
        """The chat template: text, several by name, or None."""
        given = self.template_kwargs.get(IN_KWARGS)
        return getattr(self.processor or self.tokenizer, "chat_template", None) if given is None else given

    def with_template(self, template: Any) -> RunPrompts:
        """The same run with another template, where it has its template from."""
        if IN_KWARGS in self.template_kwargs:
            return replace(self, template_kwargs={**self.template_kwargs, IN_KWARGS: template})
        tokenizer, processor = copy.copy(self.tokenizer), copy.copy(self.processor)
        tokenizer.chat_template = template
        if processor is not None:
            processor.chat_template = template
        return replace(self, tokenizer=tokenizer, processor=processor)


def load_processor(path: str, trust_remote_code: bool) -> Any:
    """verl's processor of a model with images, None for other models; from local files only."""
    from verl.utils import hf_processor

    with quiet():
        return hf_processor(path, trust_remote_code=trust_remote_code, local_files_only=True)


def load_tools(tool_config: str | None, function_tools: str | None) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Name and schema of each tool.

    Raises:
        Exception: whatever verl raises on a file that it cannot use.
    """
    from verl.tools.tool_registry import load_all_tools
    from verl.utils.import_utils import resolve_config_path

    paths = [resolve_config_path(path) if path else None for path in (tool_config, function_tools)]
    tools = load_all_tools(tool_config_path=paths[0], function_tool_path=paths[1])
    return tuple((t.name, t.tool_schema.model_dump(exclude_unset=True, exclude_none=True)) for t in tools)


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings: verl repeats them in the run."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
