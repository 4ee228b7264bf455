"""What is charged when an answer came but its usage did not (`missing_usage`): an estimate, the hold, or nothing.

This file owns that an estimate costs at least the request's input, and never more than a hold that is a bound.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from billing.ledger.debits import total_usage
from billing.usage import Usage
from gateway.dialects.facts import charged_by_search
from gateway.proxy.estimate import BYTES_PER_TOKEN, Charge, billed_usage
from gateway.proxy.provider_tools import searches_with, uses_with

if TYPE_CHECKING:
    from billing.holds.model import Hold
    from gateway.dialects.facts import Reported
    from gateway.dialects.output import Inline, Output
    from gateway.proxy.context import Reason, RequestContext
    from gateway.tokens import Tokenizer

logger = logging.getLogger(__name__)

Policy = Literal["estimate", "hold", "free"]

# Of a body's text; where there is more, it is taken to have a token every four bytes: counting would take a second.
MAX_COUNTED_BYTES: Final = 4 << 20


class Guess(msgspec.Struct, frozen=True, gc=False):
    """A usage that no provider reported, what is charged for it, and why it had to be guessed; None where what the
    provider reported stands."""

    usage: Usage
    charge: Charge
    reason: Reason | None


class MissingUsage:
    """Estimates usage by the configured policy; counts off the event loop where there is much to count."""

    def __init__(self, policy: Policy, tokenizer: Tokenizer) -> None:
        self._policy = policy
        self._tokenizer = tokenizer

    async def guess(
        self,
        context: RequestContext,
        hold: Hold,
        output: Output,
        reason: Reason,
        extrapolate: Callable[[int], int] | None = None,
        reported: Reported | None = None,
    ) -> Guess:
        """Return the usage of an answer of which `output` passed; `extrapolate` scales a count where only part was
        kept. Of what was `reported` before the end, and of what is counted, the larger one holds, input and output
        each. An answer that was left `unread` costs at least its hold.

        Whatever fails while counting charges the hold. An answer that never has a usage, of a model whose input is
        free, counts as a request and nothing else. A request to get ready costs what its provider reports.
        """
        if reported is None and not context.parsed.reports_usage and context.route.costs_no_input:
            return Guess(Usage(), context.charge(Usage()), None)
        if _only_prepared(context, output, reason):
            if reported is None:
                return Guess(Usage(), Charge(0, 0, None), None)
            return Guess(reported.total, context.charge(reported.usage, reported), None)
        if self._policy == "free":
            return self._larger(context, Usage(), reported, reason)
        if self._policy == "hold" or not output.known:
            return self.of_hold(context, hold, reported, reason)
        try:
            usage = await self._estimate(context, hold, output, extrapolate)
            counted = self._larger(context, usage, reported, reason)
        except Exception:
            logger.exception("request %s: its usage could not be estimated", hold.id)
            return self.of_hold(context, hold, reported, reason)
        if not context.unread:
            return counted
        whole = self.of_hold(context, hold, reported, reason)
        return max(whole, counted, key=lambda guess: guess.charge.charged_nano)

    def whole_hold(self, context: RequestContext, hold: Hold, reason: Reason) -> Guess:
        """Return the hold, where nothing in an answer can be believed or counted; nothing where that is the policy."""
        if self._policy == "free" and reason != "implausible_usage":
            return Guess(Usage(), Charge(0, 0, None), reason)
        usage, charge = context.whole_hold(hold)
        return Guess(usage, charge, reason)

    def hold_or_passed(self, context: RequestContext, hold: Hold, reported: Usage, output: Output) -> Guess:
        """Return the hold in place of a reported usage that is far above it, or the text that passed where that is
        more. It is estimated by its length, because this is rare and counting a long text takes time."""
        guess = self.whole_hold(context, hold, "implausible_usage")
        passed = min(len(output.text) // BYTES_PER_TOKEN, reported.output_tokens)
        if passed <= guess.usage.output_tokens:
            return guess
        usage = Usage(input_tokens=min(reported.input_tokens, hold.need.input_tokens), output_tokens=passed)
        charge = context.charge(usage)
        return Guess(usage, charge, guess.reason) if charge.charged_nano > guess.charge.charged_nano else guess

    def of_hold(self, context: RequestContext, hold: Hold, reported: Reported | None, reason: Reason) -> Guess:
        """Return the hold, or what was reported so far where that is more."""
        guess = self.whole_hold(context, hold, reason)
        if reported is not None:
            charge = context.charge(reported.usage, reported)
            if charge.charged_nano >= guess.charge.charged_nano:
                return Guess(reported.total, charge, None)
        return guess

    def _larger(self, context: RequestContext, counted: Usage, reported: Reported | None, reason: Reason) -> Guess:
        if reported is None and self._policy == "free":
            return Guess(counted, Charge(0, 0, None), reason)
        if reported is None:
            usage = billed_usage(counted, context.parsed, context.route)
            return Guess(usage, context.charge(usage), reason)
        billed = billed_usage(reported.usage, context.parsed, context.route)
        usage = billed.with_counts(
            input_tokens=max(billed.input_tokens, counted.input_tokens),
            output_tokens=max(billed.output_tokens, counted.output_tokens),
            searches=max(billed.searches, counted.searches),
        )
        everything = total_usage(usage, reported.others)
        return Guess(everything, context.charge(usage, reported), None if usage == billed else reason)

    async def _estimate(
        self, context: RequestContext, hold: Hold, output: Output, extrapolate: Callable[[int], int] | None
    ) -> Usage:
        route = context.route
        part_tokens = route.rates.row.part_tokens if route.rates is not None else None
        text = await self._tokenizer.count_off_loop(output.text, route.vocabulary, context.principal.account_id)
        sound = sum(inline.tokens(part_tokens) for inline in output.inline if inline.kind == "audio")
        tokens = text + sum(inline.tokens(part_tokens) for inline in output.inline)
        if extrapolate is not None:
            sound, tokens = extrapolate(sound) if sound else 0, extrapolate(tokens)
        calls, searches = _called(context, hold, output)
        input_tokens = await self._input(context, hold) * (1 + calls)  # each round reads it again
        if context.strict:  # a bound: the provider was told that maximum, whatever our own count says
            tokens, input_tokens = min(tokens, hold.output_tokens), min(input_tokens, hold.need.input_tokens)
        elif route.max_output_tokens is not None:
            tokens = min(tokens, route.max_output_tokens * context.parsed.choices)
        return Usage(
            input_tokens=input_tokens,
            output_tokens=tokens,
            audio_output_tokens=min(sound, tokens),
            searches=searches,
        )

    async def _input(self, context: RequestContext, hold: Hold) -> int:
        """Count all JSON that is not inline data; images, audio and files by `part_tokens`. Where that does not say,
        they are counted as the hold has them, and so is what the request names of its stored objects."""
        stored = context.parsed.stored
        if stored is not None and stored.names:
            return hold.need.input_tokens
        dialect = context.match.dialect
        body, parts, route = context.body, context.parsed.parts, context.route
        bounds = (route.rates.row.part_tokens if route.rates is not None else None) or {}
        if (parts.images and "image" not in bounds) or (parts.files and "file" not in bounds):
            return hold.need.input_tokens
        known = parts.images * bounds.get("image", 0) + parts.files * bounds.get("file", 0)
        text_bytes = (len(body) or context.parsed.input_bound_tokens) - parts.data_bytes
        if text_bytes > MAX_COUNTED_BYTES or not body:  # of work in the background no body is kept
            return known + text_bytes // BYTES_PER_TOKEN

        def count(count_text: Callable[[str], int]) -> tuple[int, list[Inline]]:
            return dialect.input_tokens(body, count_text)

        tokens, inline = await self._tokenizer.off_loop(
            len(body), count, route.vocabulary, context.principal.account_id
        )
        return known + tokens + sum(piece.tokens(bounds) for piece in inline if piece.kind == "audio")


def _called(context: RequestContext, hold: Hold, output: Output) -> tuple[int, int]:
    """Return the calls of tools at the provider that passed, as far as they are held, and how many of them are searches
    for certain."""
    work = context.parsed.work
    calls = min(output.tool_calls, uses_with(work, context.granted_calls(hold) or 0))
    all_search = all(map(charged_by_search, (*work.open_tools, *work.bounded_tools)))
    return calls, min(calls, searches_with(work, context.granted_calls(hold) or 0)) if all_search else 0


def _only_prepared(context: RequestContext, output: Output, reason: Reason) -> bool:
    """Return whether the provider got ready for a later request, and wrote nothing. One that may have passed over the
    wish, because it could write, is believed where its answer is whole."""
    parsed = context.parsed
    return parsed.prepares and output.empty and (reason == "no_usage" or not parsed.has_output)
