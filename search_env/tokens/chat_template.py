"""The model's own chat template: Jinja text, rendered by transformers, encoded exactly.

What the template writes is encoded as transformers encodes it, with the control tokens that it
names. A question stays text, whatever it spells: its characters never become part of a control
token. Which characters of the rendered text are the question's is found by rendering twice, the
second time with a question in which the characters of control tokens are replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from search_env.errors import ConfigurationError
from search_env.tokens.json_vocabulary import JsonEncoder

_PRIVATE = 0xF0000  # the first character of a plane for private use

Messages: TypeAlias = Sequence[Mapping[str, str]]


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        text: The template, in Jinja.
        tokens: The tokens that a template may name, such as ``{"bos_token": "<s>"}``.
        encoder: The tokenizer's encoder.
        control: The id of each control token, by its name.
    """

    def __init__(
        self, text: str, tokens: Mapping[str, str], encoder: JsonEncoder, control: Mapping[str, int]
    ) -> None:
        self.text = text
        self.tokens, self._encoder = tokens, encoder
        self._control = frozenset(control.values())
        letters = sorted({c for name in control for c in name if not c.isspace()})
        self._mask = {ord(c): _PRIVATE + i for i, c in enumerate(letters)}
        self._unmask = {private: letter for letter, private in self._mask.items()}

    def render(self, messages: Messages, options: Mapping[str, Any]) -> str:
        """Return the text of a chat up to where the model writes.

        Raises:
            ConfigurationError: transformers is not installed, or the template refuses the chat.
        """
        try:
            from jinja2 import TemplateError
            from transformers.utils.chat_template_utils import render_jinja_template
        except ImportError as error:
            raise ConfigurationError(
                f"Expected transformers for prompt='chat-template', got no {error.name}. Run: "
                'pip install "search-env[agents]"'
            ) from error
        variables = {**self.tokens, **options}
        try:
            rendered: Any = render_jinja_template(
                conversations=[[dict(message) for message in messages]],
                chat_template=self.text,
                add_generation_prompt=True,
                **variables,
            )
        except (TemplateError, ImportError, TypeError, ValueError, LookupError) as error:
            raise ConfigurationError(
                f"Expected the model's chat template to accept {_roles(messages)}, got "
                f"{type(error).__name__}: {error}. {_ADVICE}"
            ) from error
        return str(rendered[0][0])

    def encode(
        self, chat: Callable[[str], Messages], question: str, options: Mapping[str, Any]
    ) -> list[int]:
        """Return the ids of a chat up to where the model writes.

        They are those of ``apply_chat_template(chat(question), add_generation_prompt=True)``,
        except that control tokens which the question spells are encoded as text.

        Raises:
            ConfigurationError: As of :meth:`render`, or the template leaves a message out.
        """
        hidden = chat(question.translate(self._mask))
        masked = self.render(hidden, options)
        for message in hidden:
            if message["content"].strip() not in masked:
                raise ConfigurationError(
                    f"Expected the model's chat template to write the {message['role']} message, "
                    f"got a prompt without it. {_ADVICE}"
                )
        text = self.render(chat(question), options)
        if masked.translate(self._unmask) == text:
            spans = self._encoder.spans(text)
            if not any(
                i in self._control and masked[start:end] != text[start:end]
                for i, start, end in spans
            ):
                return [i for i, _, _ in spans]
        return self._encode_apart(masked)

    def _encode_apart(self, masked: str) -> list[int]:
        """Encode the template's control tokens, and all between them as outside text."""
        ids: list[int] = []
        done = 0
        for i, start, end in self._encoder.spans(masked):
            if i in self._control:
                ids += self._encoder.as_owner(masked[done:start].translate(self._unmask))
                ids.append(i)
                done = end
        return ids + self._encoder.as_owner(masked[done:].translate(self._unmask))


_ADVICE = (
    "Use prompt='base', or a protocol that writes its instructions into the user's message: "
    "dataclasses.replace(protocol, chat_system='', chat_user=...)."
)


def _roles(messages: Messages) -> str:
    return " and ".join(f"a {message['role']} message" for message in messages)
