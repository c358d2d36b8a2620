# SPDX-License-Identifier: Apache-2.0
"""The phrases, English and Chinese, by which responses state, correct, deny and comment on answers."""

from __future__ import annotations

import re
from collections.abc import Iterator


def _words(*pieces: str) -> re.Pattern[str]:
    return re.compile("".join(pieces), re.IGNORECASE)


# ---- statements: "The answer is", "#### ", "**Final Answer**", 答案是, 故选
_BE = (
    r"(?:(?:is|are|was|were|equals?|becomes?|gives)(?![a-zA-Z])|[’']s(?![a-zA-Z])|=|:|："
    r"|(?:comes?|turns?|works?) out (?:to be|as|to)(?![a-zA-Z])|(?:must|should|will|would|has to|have to|can only) be"
    r"(?![a-zA-Z])|(?:simplifies|evaluates|amounts|comes) to(?![a-zA-Z]))"
)
_MARKUP = r"[ \t*_`]*"
_COLON = rf"{_MARKUP}:?{_MARKUP}"
_IS_ZH = r"(?:应该|应当|应|就|只能|必然|一定|可以|大?约)?(?:是|为|：|:|=|等于|即为?)[ \t*_]*[：:]?[ \t*_]*"
# marker, heading: see below. "strong" names an answer; "weak" a result, which may be one on the way.
STATEMENT = _words(
    r"(?P<marker>(?<!#)####(?!#)[ \t]*)",
    r"|(?<![a-z])(?P<strong>(?:answers?|ans(?=[.:：= ]))(?:[ \t*_`.]*|[ \t]+(?:to|for|of"
    r"|in)[ \t][^.\n:=：]{1,80}?[ \t*]",
    rf"|[ \t]*\([^()\n]{{1,60}}\)[ \t]*|,[^,.\n]{{1,60}},[ \t]*){_BE}{_COLON})",
    rf"|(?<![a-z])(?P<weak>(?:results?|solutions?){_MARKUP}{_BE}{_COLON})",
    rf"|(?P<strong_zh>(?:答案|最[终后](?:答案|结果))[ \t*_]*{_IS_ZH}|[【\[]答案[】\]][ \t：:]*"
    rf"|(?<![回解问])答[ \t]*[：:][ \t]*"
    r"|答案[ \t*_]*(?=不可能|大于|小于|至少|至多|超过|不超过|不足|不少于|不多于|[多少高低]于)",
    r"|(?:故|应|所以|因此)填空?[ \t]*[：:]?[ \t]*|(?:故|因此|所以|应该?|答案)[ \t]*选(?:择|项)?[ \t]*[：:]?[ \t]*)",
    rf"|(?P<weak_zh>结果[ \t*_]*{_IS_ZH})",
)
# A line that is nothing but "Final Answer", as a heading or in bold.
HEADING = _words(
    r"[ \t>]*(?:#{1,6}[ \t]*|[*_]{1,3})(?:\d{1,2}[.)][ \t]*)?(?:[*_]{2})?(?:the[ \t]+)?(?:(?:final|correct"
    r"|short)[ \t]+)?",
    r"(?:answer|最终答案|最终结果|答案)[*_#:： \t]*(?:\n|$)",
)
_KEYS = (
    "####",
    "nswer",
    "NSWER",
    "esult",
    "ESULT",
    "olution",
    "OLUTION",
    "Ans",
    "ANS",
    "ans:",
    "ans.",
    "ans =",
    "ans=",
)
_KEYS_ZH = ("答", "结果", "最终", "最后", "选", "填")
_BACK = {"nswer": 1, "NSWER": 1, "esult": 1, "ESULT": 1, "olution": 1, "OLUTION": 1}
_MOST = 200  # of one key; what stands before is not read


def statements(text: str) -> Iterator[tuple[int, int, str]]:
    """Statements from the last to the first: where one starts, where its answer begins, its kind.

    A search for fixed strings finds the places; the patterns are matched only there.
    """
    places: set[int] = set()
    for key in _KEYS if text.isascii() else _KEYS + _KEYS_ZH:
        end, count = len(text), 0
        while count < _MOST and (at := text.rfind(key, 0, end)) >= 0:
            places.add(at - _BACK.get(key, 0))
            if key == "选" or key == "填":
                places.update((at - 1, at - 2))
            if key == "答" and at:
                places.add(at - 1)
            end, count = at, count + 1
    taken = len(text)
    for place in sorted(places, reverse=True):
        if place < 0 or place >= taken:
            continue
        match = STATEMENT.match(text, place)
        line = text.rfind("\n", 0, place) + 1
        if match is not None:
            taken = place
            yield place, match.end(), (match.lastgroup or "").removesuffix("_zh")
        elif place - line < 40 and (heading := HEADING.match(text, line)):
            taken = line
            yield line, heading.end(), "heading"


# ---- where a sentence and an answer end
SENTENCE_END = re.compile(
    r"\n|[。！？]|(?<!\\)[!?](?=[\s\"'”’)*_]|$)(?![ \t]*[=+*/^×·÷≈])"
    r"|\.(?=[\"'”’)*_]*(?:\s|$))(?<!\be\.g\.)(?<!\bi\.e\.)(?<!\bapprox\.)"
)
REASON = _words(
    r"[,，;；:—–][ \t]*(?:(?:because|since|so|as|which|where|when|hence|thus|therefore|completing|with|after|by"
    r"|from|given",
    r"|assuming|this|we|obtained|using|that is|but|and[ \t]+(?:we|this|that|it|i|so|hence|thus|therefore|the|our"
    r"|you|they|he",
    r"|she))\b|i\.e\.|因为|所以|由于|即|其中|因此|故|这|证|我们|满足|符合|但)",
    r"|(?<=[^\s,])[ \t]+(?:(?:because|since|therefore|hence|thus)|so[ \t]+(?:we|that|the|it|this|i)|and[ \t]+(?:we"
    r"|this|that|it|so|hence|thus|therefore)|as[ \t]+(?:we|it|the|there",
    r"|required|desired|expected|shown|needed|claimed|above|before))\b|(?<=[^\s,，])[ \t]*(?:因为|由于)",
    r"|(?<=\w)[ \t]*[(（](?:(?:because|since|as|using|where|with|from|obtained|given)\b|i\.e\.|因为|即|由)",
)
FILLER = _words(
    r"^(?:(?:(?:therefore|thus|hence|clearly|simply|just|exactly|equal to|approximately|about|roughly|given by"
    r"|indeed|also",
    r"|now|then|in fact|of course|finally|again|probably|likely|most likely)\b|约|大约|等于)[ \t,:]*)+",
)
ROUNDED = _words(r"[\s*_$:]*(?:approximately|about|roughly|around|nearly|close to|≈|\\approx|约|大约|近似)")

# ---- no answer
NOTHING = _words(
    r"(?:i (?:do not|don'?t|don’t) know|i am not sure|i'?m not sure|not sure|unknown|unclear|\?+|？+|",
    r"不知道|无法(?:确定|得出|回答)|不确定|不会|none|n/?a|\.\.\.|…+)\W*",
)
GIVES_UP = _words(r"\b(?:i (?:do not|don'?t|don’t) know|i give up)\b|不知道|无法(?:确定|得出答案|回答)")

# ---- what is said about an answer, not the answer itself
ABOUT = _words(
    r"(?:(?:also|indeed|thus|therefore|hence|now|then|clearly|both|very|quite|completely|entirely|most likely"
    r"|probably",
    r"|definitely|already|in|as|well|still|actually|certainly|obviously|fully|mathematically|logically)\s+)*",
    r"(?:correct(?:ly)?|right|wrong|incorrect(?:ly)?|verified|confirmed|checked|valid|invalid|consistent|reasonable",
    r"|plausible|sensible|sound|accurate|justified|unique|clear|obvious|completed?|done|ready|final|finished|proven"
    r"|proved",
    r"|obtained|derived|found|given|shown|stated|written|boxed|presented|displayed|provided|expressed|expected"
    r"|required",
    r"|desired|claimed|above|below|here|there|simplified|simple|straightforward|follow(?:s|ing)|the following",
    r"|in (?:the (?:box|form)|agreement|accordance|line|its|simplest|lowest)|of the form|what|indeed|easy|easily"
    r"|based|due",
    r"|because|achieved|reached|supported|satisfied|acceptable|good|fine|ok|okay|precise|reliable|independent|to be"
    r"|that we",
    r"|computed|calculated|determined|used|sought)(?![a-zA-Z])(?:[^\d\\$]*|\s+(?:by|from|with|using|through|via|since"
    r"|as"
    r"|because|when|if|for|in)\b.*)",
)
ABOUT_ZH = _words(
    r"(?:完全|都|也|确实|显然|应该|就|很|非常|唯一|已经?|是)*(?:正确|对的?|合理|准确|错误?|错的|可靠|唯一|成立|有效"
    r"|符合|一致|如[上下]",
    r"|上[述面]|以上|下[述面]|显然|确定的|合适|没有?问题|满足|可[信行]|不正确|不对)[^\d\\$]*",
)
SECTION = _words(
    r"(?:(?:self|double|sanity|quick|final)[- ]?)*(?:check(?:s|ing|ed)?|verif(?:y|ication|ied|ying)|proof"
    r"|validation|summary",
    r"|conclusions?|explanations?|notes?|remarks?|steps?|solutions?|analysis|discussion|review|done|end|reasoning"
    r"|details?",
    r"|comments?|justification|recap|key (?:points|takeaways?)|(?:final )?(?:answer|result|thoughts)|验证|检验|验算"
    r"|检查|总结|小结",
    r"|结论|说明|解释|注意?|备注|分析|解析|步骤|答案|最终答案|完)(?![a-zA-Z])[^\d\\$]*",
)
# Words that are an answer even behind a number.
OPPOSITE = _words(
    r"(?:an? |the |there (?:is|are) )?(?:undefined|infinit(?:e|y|ely many.*)|impossible|no (?:solutions?|answer"
    r"|real.*|such.*)",
    r"|not (?:possible|defined|enough.*)|do(?:es)? not exist|dne|none|yes|no|true|false|neither|empty|unbounded",
    r"|无解|不存在|无穷.*|无数.*|没有.*解|不可能|不能|是|否|空集)[\s.]*",
)
CORRECTION = _words(
    r"\b(?:sorry|wait|actually|correction|corrected|oops|mistake|instead|hmm|however|rather|no[,.:;]|revised?"
    r"|recheck\w*",
    r"|recount\w*|on second thought|let me (?:re|fix|correct)\w*|but)\b|抱歉|等等|不对|更正|错了|其实|实际上|重新"
    r"|修正|应为",
    r"|再(?:检查|看|算)",
)
# "Wait, it is 71.", "不，是71": the value that follows takes the place of the one before.
CORRECTED = _words(
    r"(?:(?<![a-z])(?:wait|no|actually|sorry|oops|hmm|correction|scratch that)(?![a-z])[\s,.!:;…—–-]*)+"
    r"(?:(?:it|that|this)(?:(?:['’]s|\s+(?:is|should be|must be|equals))(?:\s+actually)?)|make (?:it|that)"
    r"|(?<=[,.:!;—–-] ))[\s:*$\\(]*"
    r"(?=[-−]?[\d$\\]|(?-i:[(（]?[A-Z]))|(?:不对|不|等等|更正|抱歉|错了)[，,。！!：:\s]+(?:(?:它|答案)?(?:应该|应)?[是为])\s*(?=[-−$\\]?\d|(?-i:[A-Z]))"
)
# "It is wrong that the answer is 72"
REFUSED = _words(
    r"\b(?:wrong|false|incorrect|untrue|not true|n['’]t true|not the case|doubt|deny|impossible|unlikely)\s+"
    r"(?:that|to (?:say|claim|think) that)\s*(?:(?:the|my|our|final|correct)\s+)*$|(?:不认为|错误地认为|并非)\s*$"
)
# A question, unless it is answered with yes at once: "Is the answer 72?", 答案是72吗？
ASKED = _words(r"[\s*_$)]*[?？](?![\s*]*(?:yes|yep|yeah|right|correct|indeed|true|是的|对|没错|正确))")
CLAUSE = re.compile(r"[a-z'’,-]+(?:\s+[a-zA-Z'’,-]+){2,}")  # "obtained by taking the limit"

# ---- denials and alternatives
NOT_BUT = re.compile(
    r"(?:not|isn['’]t|不是|并非|非)\s*[^,，;]{1,200}?[\s,，;]*(?:\bbut(?: rather| instead)?\b|\brather\b"
    r"|\binstead\b|而是|应该?是|，是"
    r"|[,，;]\s*it(?:['’]s| is))\s*(?P<yes>\S.{0,1000})",
    re.IGNORECASE | re.DOTALL,
)
BUT_NOT = _words(
    r"[\s,，;；(（]*(?:\b(?:and"
    r"|but)\s+)?(?:(?<![a-zA-Z\\])not(?![a-zA-Z])|\brather than\b|\binstead of\b|而不是|而非|不是|并非)\s*(?=\S)"
)
DENIED = _words(
    r"(?:(?:definitely|certainly|clearly|surely)\s+)?(?:not|never|neither|cannot be|can['’]t be|isn['’]t|不是|并非"
    r"|不等于|不为|≠"
    r"|\\neq?)(?![a-zA-Z])\s*"
)
_NOT_BE = r"(?:isn|wasn|can|couldn|wouldn|won)['’]t"
DENIED_BEFORE = _words(
    r"(?:\bnot|n['’]t|\bnever|\bcannot|\brather than|\binstead of|不是|而非|并非|不等于|不为|≠|\\neq?)",
    r"(?:\s+(?:be|equal(?: to)?|the answer|a solution))?[\s$\\(\[*:]*$",
)
DENIED_AFTER = _words(
    r"[\s$*\\)\]}]*(?:(?:is|was|would be|can|could|must)\s*(?:(?:definitely|clearly|certainly)\s+)?(?:not|wrong"
    r"|incorrect",
    r"|false|impossible|too (?:large|small|big|high|low))\b",
    rf"|{_NOT_BE}\b|cannot be\b|do(?:es)?(?: not|n['’]t) (?:work|satisfy|hold|fit)",
    r"|[?？][\s*]*(?:no(?:pe)?(?![a-z])|wrong|incorrect|不|错)|不是|不对|不正确|是?错|不符合|不可能|不成立)",
)
UNSURE = _words(
    r"\b(?:maybe|perhaps|possibly|probably|might|could|may (?:also )?be|alternatively|or else|unless|not sure)\b",
    r"|也许|可能|或许|大概|说不定",
)
BUT = _words(r"\bbut\b|但|\bthough\b|\balthough\b")
OR_ELSE = _words(
    r"[\s.,;，；。]*(?:\b(?:or(?: maybe| perhaps)?|maybe|perhaps|possibly|alternatively"
    r"|it could also be(?: that)?)\b|或者?|也许|可能)",
    r"[\s,]*(?:(?:the|a|my|our|final|correct|that)\b\s*|正确|最终|的)*$",
)
BETWEEN_ALTERNATIVES = _words(r"[^.\d]{0,20}?(?:\bor\b|或|\bmaybe\b|\bperhaps\b|也许|可能)[^.\d]{0,20}")

# ---- prose around a formula
ARITHMETIC = _words(
    r"\b(?:times|plus|minus|over|divided|multiplied|squared|cubed|million|billion|trillion|thousand|hundred"
    r"|dozens?|percent",
    r"|half|twice|double|triple|third|quarter|root|factorial|mod|modulo|remainder|choose|power|logarithm|inverse"
    r"|reciprocal",
    r"|negative|opposite|of|or|and|not|than|except|if|to|between|from)\b|[或和至到倍半万亿千百除乘加减非不否]|根号"
    r"|平方|立方",
)
# Words that make another number of the one beside them.
CALCULATION = _words(
    r"\b(?:times|plus|minus|divided|multiplied|squared|cubed|half|twice|thrice|doubled?|tripled?|square of|cube of|root"
    r"|factorial|mod|modulo|remainder|logarithm|inverse|reciprocal|negative|opposite)\b|一半|[倍除乘减]|根号|平方(?![米厘分千])"
    r"|立方(?![米厘分])|阶乘|倒数|相反数"
)
# "the value of", which changes nothing
MEASURE_OF = _words(r"\b(?:value|sum|area|volume|number|probability|length|set|form|product|total) of\b|\bof the\b")
CONDITION = _words(
    r"(?:\b(?:where|when|if|for|whenever|since|because|provided|assuming|given|using|with|as|while|all|every|any"
    r"|let|setting",
    r"|taking)(?:\s+(?:all|every|any|each|that|some|integers?|real))*|当|其中|因为|由于|若|如果|设|令)\s*$",
)
ASIDE = _words(
    r"[\s,，]*(?:[(（\[]|or\b|i\.e\.|which is|that is|即)?\s*(?:which is|about|approximately|approx\.?|roughly"
    r"|around|\\approx|≈|约|大约)"
)
EXPRESSION_START = re.compile(
    r".*(?:\b(?:is|are|equals?|get|have|be|obtain|gives?|yields?|find|thus|therefore|hence|so)\b|[:：为是得即])",
    re.IGNORECASE | re.DOTALL,
)
THINKING = _words(r"<(/?)(?:think|thinking|thought|thoughts|reasoning|scratchpad)>")
