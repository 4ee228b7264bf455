"""What a model is for, and whether that may be free: told by its price row, and by its vendor's name for it.

An entry of metergate.yaml that stands for many names lists those alone that an endpoint here takes. An entry of its own
is listed whatever it is called: its operator has named it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from billing.rates import INPUT_CLASSES, OUTPUT_CLASSES

if TYPE_CHECKING:
    from billing.prices import PriceRow
    from gateway.config.models import ProviderConfig
    from gateway.proxy.candidates import Rates

_GENERATES_MEDIA: Final = "gemini"
"""The dialect whose text endpoint takes models of pictures, speech and transcripts, too
(https://ai.google.dev/gemini-api/docs/models)."""


def _word(*names: str) -> re.Pattern[str]:
    """Return what finds one of these between the hyphens of a model's name."""
    return re.compile(rf"(?:^|[-/])(?:{'|'.join(names)})(?:[-.]|$)")


_SESSIONS: Final = _word("realtime", "live", "native-audio", "lyria", "veo", "imagen", "ocr")
"""Of models that are asked over sessions, jobs or pages
(https://platform.openai.com/docs/models, https://docs.mistral.ai/getting-started/models)."""
_MEDIA: Final = _word("tts", "whisper", "transcribe", "image", "dall-e", "sora", "voice", "orpheus", "imagine")
"""Of models of pictures and sound that have endpoints of their own
(https://platform.openai.com/docs/models, https://docs.x.ai/docs/models)."""


def is_asked_here(model: str, provider: ProviderConfig) -> bool:
    """Return whether a provider's model is one for endpoints that the gateway serves, by its name there."""
    if _SESSIONS.search(model):
        return False
    return _GENERATES_MEDIA in provider.served or not _MEDIA.search(model)


def is_priced_here(rates: Rates) -> bool:
    """Return whether its row prices what a request here is charged by: tokens, whole requests or searches."""
    return not rates.input_unpriced or "search" in rates.row.per_unit


def writes(rates: Rates) -> bool:
    """Return whether its row prices a written answer."""
    return not (rates.input_unpriced or rates.output_unpriced)


def costs_nothing(row: PriceRow, *, writes: bool) -> bool:
    """Return whether what a request may be charged is priced, at zero: input, and output where a model writes it."""
    classes = (*INPUT_CLASSES, *OUTPUT_CLASSES) if writes else INPUT_CLASSES
    priced = "input" in row.per_million and ("output" in row.per_million or not writes) and not row.cost_reported
    return priced and not row.dearest_nano(classes) and not any(map(row.dearest_unit, ("request", "search")))
