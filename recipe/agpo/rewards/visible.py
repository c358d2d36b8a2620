# SPDX-License-Identifier: Apache-2.0
"""Text as a reader sees it: without invisible characters, without tokens of the tokeniser, with plain spaces."""

from __future__ import annotations

import re

# Control and format characters (Unicode Cc, Cf), what Unicode calls default-ignorable, blanks that are no spaces, and
# pictures. A test compares the ranges with unicodedata.
_IGNORED = (
    "\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160"
    "\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u20e3\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"
)
_PICTURES = "\u2600-\u27bf\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55\U0001f000-\U0001faff"
_INVISIBLE = re.compile(f"[{_IGNORED}{_PICTURES}]")
_INVISIBLE_ASCII = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f]")
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_SPACES = re.compile("[\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
# <|im_end|>, <｜end▁of▁sentence｜>, </s>, <eos>, <end_of_turn>, [EOS], [/INST]
_TOKEN = re.compile(
    r"<[|｜][^<>\s]{1,60}[|｜]>|</?s>"
    r"|</?(?:(?:eos|bos|pad|unk|sep|cls|mask|eot|eod|eom|im_end|im_start|end|eos_token|pad_token)"
    r"|(?:end|start|begin)[_▁ ]?of[_▁ ]?[a-z]{1,20})>"
    r"|\[/?(?:EOS|BOS|PAD|UNK|SEP|CLS|MASK|EOT|EOD|END|INST|end_of_text)\]",
    re.IGNORECASE,
)


def visible(text: str) -> str:
    """``text`` without what is not seen; linear in its length. A token of the tokeniser ends a line."""
    if text.isascii():
        if not text.replace("\n", "").isprintable():
            text = _INVISIBLE_ASCII.sub("", _LINE_ENDS.sub("\n", text))
    else:
        text = _INVISIBLE.sub("", _SPACES.sub(" ", _LINE_ENDS.sub("\n", text)))
    return _TOKEN.sub("\n", text) if "<" in text or "[" in text else text
