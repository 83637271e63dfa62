"""A label, which may be any text, in every format that shows it: Markdown, LaTeX, HTML, mathtext, terminal, file name.

One function a target; each takes the label as it is (never an escaped one) and gives one line. No torch.
"""

from __future__ import annotations

import hashlib
import html as html_entities
import re
import sys
import unicodedata
from itertools import groupby

LONGEST_FILE_NAME = 100  # bytes
HASH_DIGITS = 10
LONGEST_LATEX_WORD = 20  # characters; longer ones may be broken anywhere
JOINERS = "\u200c\u200d"  # format characters that decide how Persian, Hindi or an emoji is drawn
ISOLATE = "\u2068{}\u2069"  # first-strong isolate: right-to-left text leaves its surroundings in order

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "`": r"\textasciigrave{}", "'": r"{'}", '"': r"\char34{}", "-": r"-{}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # after the \\ of a table's row they would be its arguments
    "×": r"$\times$", "±": r"$\pm$", "→": r"$\to$", "–": "{--}", "—": "{---}", "…": r"\ldots{}", "−": "$-$",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "†": r"$^\dagger$", "‖": r"$\|$", "²": "$^2$", "Δ": r"$\Delta$",
    "α": r"$\alpha$", "λ": r"$\lambda$", "μ": r"$\mu$", "θ": r"$\theta$",
}  # fmt: skip
LATEX_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip


def plain(label: str) -> str:
    """One line of visible text: white space becomes single spaces, what has no glyph its escape (`\\x1b`)."""
    return "".join(map(_visible, " ".join(label.split())))


def _visible(character: str) -> str:
    unseen = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return character.encode("unicode_escape").decode() if unseen and character not in JOINERS else character


def markdown(label: str) -> str:
    """For a paragraph or a cell of a GFM table; a CommonMark parser gives back `plain(label)`."""
    text = re.sub(r"([\\`*_{}\[\]<>#|$~&!+=-])", r"\\\1", plain(label))
    text = re.sub(r"^(\d+)([.)])", r"\1\\\2", text)  # else the item of a list
    return ISOLATE.format(text) if _is_right_to_left(label) else text


def html(label: str) -> str:
    """For an element's content or a quoted attribute."""
    text = html_entities.escape(plain(label))
    return ISOLATE.format(text) if _is_right_to_left(label) else text


def latex(label: str) -> str:
    """For text, a table's cell or a caption. Scripts beyond Latin appear under LuaTeX and XeTeX; pdfTeX, which would
    stop at them, prints their code points. Words that no line could hold may be broken after each character."""
    return " ".join(_latex_word(word) for word in plain(label).split(" "))


def _latex_word(word: str) -> str:
    joint = r"\allowbreak{}" if len(word) > LONGEST_LATEX_WORD else ""
    texts = []
    for is_simple, characters in groupby(word, lambda character: _latex_character(character) is not None):
        if is_simple:
            texts += [str(_latex_character(character)) for character in characters]
            continue
        rest = list(characters)
        points = r"\allowbreak{}\,".join(f"U+{ord(c):04X}" for c in rest)
        unbroken = any(unicodedata.east_asian_width(c) not in "WF" for c in rest)  # these letters are joined
        texts.append(rf"\ifdefined\Umathcode {('' if unbroken else joint).join(rest)}\else\texttt{{{points}}}\fi{{}}")
    return joint.join(texts)


def _latex_character(character: str) -> str | None:
    """None for a character that only Unicode engines draw."""
    if character.isascii() or character in LATEX:
        return LATEX.get(character, character)
    parts = unicodedata.normalize("NFD", character)
    if len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in LATEX_ACCENTS:
        return rf"\{LATEX_ACCENTS[parts[1]]}{{{parts[0]}}}"
    return None


def mathtext(label: str) -> str:
    """For matplotlib, which takes what stands between two dollar signs for a formula."""
    return plain(label).replace("$", r"\$")


def terminal(label: str, encoding: str | None = None) -> str:
    """For a terminal or log of this encoding (default: standard output's); no character of it can be a command."""
    encoding = encoding or getattr(sys.stdout, "encoding", None) or "utf-8"
    return plain(label).encode(encoding, "backslashreplace").decode(encoding)


def file_name(label: str, suffix: str = "", longest: int = LONGEST_FILE_NAME) -> str:
    """ASCII letters, digits and `.=+-_`, at most `longest` bytes with the suffix; two labels never share one.

    `patch 4, 2 blocks` → `patch_4__2_blocks`; labels that hold anything else, or are too long, end in a hash of the
    label.
    """
    words = r"[A-Za-z0-9.=+-]+"
    name = label.replace(", ", "__").replace(" ", "_")
    readable = re.fullmatch(rf"(?![.-]){words}(,? {words})*", label) and not re.search(
        rf"_[0-9a-f]{{{HASH_DIGITS}}}$", name
    )
    if readable and len(name) + len(suffix) <= longest:
        return name + suffix
    digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:HASH_DIGITS]
    stem = re.sub(r"[^A-Za-z0-9.=+-]+", "_", label).strip("._-")[: longest - len(suffix) - HASH_DIGITS - 1]
    return (f"{stem}_{digest}" if stem else digest) + suffix


def _is_right_to_left(label: str) -> bool:
    return any(unicodedata.bidirectional(character) in ("R", "AL") for character in label)
