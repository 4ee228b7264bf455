"""PATCH (RFC 7644, section 3.5.2): changes of a resource, in their order, all or none. Pure.

Besides what the RFC says, what Okta and Entra send is understood: `Add`, `Replace` and `Remove` in any case, truth as a
text, paths as names in a value without a path, members to remove as a value, and a value that is added to `emails` by
a filter that none of them meets yet.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from billing.scim.attributes import (
    MOST_VALUES,
    Attribute,
    Resource,
    ResourceType,
    ScimError,
    read_value,
)
from billing.scim.filters import Both, Comparison, Either, Filter, Path, comparisons, holds_within, parse_path

# Members of a group up to which the answer to a change of it shows them.
MOST_SHOWN: Final = 200
MOST_OPERATIONS: Final = 1000
# Comparisons of all paths together that choose values, each of which is made with every value.
MOST_COMPARED: Final = 500
PATCH: Final = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
_OPS: Final = ("add", "replace", "remove")
MEMBERS: Final = "members"


@dataclass(frozen=True, slots=True)
class Change:
    """One operation: `op` is add, replace or remove; `path` None: the names in `value` are paths."""

    op: str
    path: Path | None
    value: Any = None


def read_changes(type_: ResourceType, body: Mapping[str, Any]) -> list[Change]:
    """Return the operations of a body, each with a path. Raises `ScimError`."""
    operations = _field(body, "Operations")
    if not isinstance(operations, list) or not 0 < len(operations) <= MOST_OPERATIONS:
        raise ScimError(f"Operations is a list of 1 to {MOST_OPERATIONS} operations.", "invalidSyntax")
    changes: list[Change] = []
    for each in operations:
        if not isinstance(each, Mapping):
            raise ScimError("An operation is an object.", "invalidSyntax")
        op, path, value = (_field(each, name) for name in ("op", "path", "value"))
        op = op.lower() if isinstance(op, str) else op
        if op not in _OPS:
            raise ScimError("op is add, replace or remove.", "invalidSyntax")
        if path is not None and not isinstance(path, str):
            raise ScimError("path is a text.", "invalidPath")
        if path:
            changes.append(Change(op, parse_path(type_.strip(path)), value))
        elif op == "remove":
            raise ScimError("What is removed is named by a path.", "noTarget")
        elif not isinstance(value, Mapping):
            raise ScimError("Without a path, value is an object.", "invalidValue")
        else:
            changes += [Change(op, path, one) for name, one in value.items() if (path := _said(type_, name))]
    if len(changes) > MOST_OPERATIONS:
        raise ScimError(f"At most {MOST_OPERATIONS} values are changed at once.", "tooMany")
    return changes


def _said(type_: ResourceType, name: str) -> Path | None:
    """Return the path that a name in a value is; None for what a client repeats and can't change, as Okta does with a
    group's id."""
    path = parse_path(type_.strip(name))
    attribute = type_.attribute(path.name)
    return None if attribute is not None and attribute.read_only else path


def _field(given: Mapping[str, Any], name: str) -> Any:
    return next((value for key, value in given.items() if key.lower() == name.lower()), None)


def patched(type_: ResourceType, resource: Resource, changes: list[Change]) -> Resource:
    """Return a resource as changes make it; those of a group's members are left out. Raises `ScimError`."""
    chosen_by = (change.path.only for change in changes if change.path and change.path.name.lower() != MEMBERS)
    if sum(comparisons(only) for only in chosen_by if only is not None) > MOST_COMPARED:
        raise ScimError(f"The paths of a PATCH have at most {MOST_COMPARED} comparisons together.", "tooMany")
    after = copy.deepcopy(resource)
    for change in changes:
        path = change.path
        if path is None:  # pragma: no cover
            raise TypeError("every change has a path")
        attribute = type_.attribute(path.name)
        if attribute is None:
            if not type_.is_ignored(path.name):
                raise ScimError(f"A {type_.name} has no {path.name[:100]!r}.", "invalidPath")
        elif attribute.name != MEMBERS:
            _apply(attribute, after, change.op, path, change.value)
    for attribute in type_.attributes:
        if attribute.required and attribute.name not in after:
            raise ScimError(f"{attribute.name} is required.", "invalidValue")
    return after


def _apply(attribute: Attribute, after: Resource, op: str, path: Path, value: Any) -> None:
    if attribute.read_only:
        raise ScimError(f"{attribute.name} is read-only.", "mutability")
    if attribute.kind != "complex" and (path.part or path.only):
        raise ScimError(f"{attribute.name} has no parts.", "invalidPath")
    part = None
    if path.part is not None:
        part = attribute.part(path.part)
        if part is None:
            raise ScimError(f"{attribute.name} has no {path.part!r}.", "invalidPath")
    if attribute.many:
        _apply_to_many(attribute, after, op, path, value)
    elif part is not None:
        whole = dict(after.get(attribute.name) or {})
        _set(whole, part, None if op == "remove" else value)
        _put(after, attribute, whole)
    elif attribute.kind == "complex" and op != "remove":
        _put(after, attribute, {**(after.get(attribute.name) or {}), **(read_value(attribute, value) or {})})
    else:
        _set(after, attribute, None if op == "remove" else value)


def _set(of: Resource, attribute: Attribute, value: Any) -> None:
    _put(of, attribute, read_value(attribute, value))


def _put(of: Resource, attribute: Attribute, value: Any) -> None:
    if value in (None, {}, []):
        of.pop(attribute.name, None)
    else:
        of[attribute.name] = value


def _apply_to_many(attribute: Attribute, after: Resource, op: str, path: Path, value: Any) -> None:
    values: list[Resource] = after.get(attribute.name) or []
    part = None if path.part is None else attribute.part(path.part)
    if path.only is not None:
        chosen = [each for each in values if holds_within(path.only, attribute, each)]
        if not chosen and op != "remove":
            chosen = [_implied(attribute, path.only)]
            values.append(chosen[0])
        for each in chosen:
            if op == "remove" and part is None:
                values.remove(each)
            elif part is not None:
                _set(each, part, None if op == "remove" else value)
            else:
                each.update((read_value(attribute, value) or [{}])[0])
    elif part is not None:
        for each in values:
            _set(each, part, None if op == "remove" else value)
    elif op == "remove":
        gone = read_value(attribute, value)
        values = [] if gone is None else [each for each in values if each not in gone]
    else:
        given = read_value(attribute, value) or []
        values = given if op == "replace" else [*values, *(each for each in given if each not in values)]
        chosen = given
    fresh = [] if op == "remove" else (chosen if path.only is not None or part is None else [])
    _keep_one_primary(values, fresh)
    if len(values) > MOST_VALUES:
        raise ScimError(f"{attribute.name} has at most {MOST_VALUES} values.", "invalidValue")
    _put(after, attribute, [each for each in values if each])


def _keep_one_primary(values: list[Resource], fresh: list[Resource]) -> None:
    """Have at most one value be primary: that which has just been made so, else the first (RFC 7644, 3.5.2)."""
    primary = [each for each in values if each.get("primary") is True]
    if len(primary) > 1:
        kept = next((each for each in primary if any(each is one for one in fresh)), primary[0])
        for each in primary:
            if each is not kept:
                each["primary"] = False


def _implied(attribute: Attribute, only: Filter) -> Resource:
    """Return the value that a filter describes by what it compares for equality. Raises `ScimError` where there is
    none."""
    parts = only.parts if isinstance(only, Both) else (only,)
    implied: Resource = {}
    for each in parts:
        part = attribute.part(each.path) if isinstance(each, Comparison) and each.operator == "eq" else None
        if part is None or not isinstance(each, Comparison):
            raise ScimError(f"None of {attribute.name} meets this filter.", "noTarget")
        _set(implied, part, each.value)
    return implied


def patched_members(type_: ResourceType, members: dict[str, None], changes: list[Change]) -> dict[str, None]:
    """Return the ids of a group's members as changes make them, in their order; each change costs what it names, not
    what the group has. Raises `ScimError`."""
    after = dict(members)
    for change in changes:
        path = change.path
        if path is None or path.name.lower() != MEMBERS:
            continue
        if path.part is not None:
            raise ScimError("Members are added and removed whole.", "mutability")
        if path.only is not None:
            if change.op != "remove":
                raise ScimError("Members are added and removed whole.", "mutability")
            for member_id in _named(path.only):
                after.pop(member_id, None)
        elif change.op == "remove":
            gone = list(after) if change.value in (None, []) else member_ids(type_, change.value)
            for member_id in gone:
                after.pop(member_id, None)
        else:
            given = member_ids(type_, change.value)
            if change.op == "replace":
                after.clear()
            after.update(given)
    return after


def _named(only: Filter) -> list[str]:
    """Return the ids that a filter names: `value eq "..."`, also several with `or` between them."""
    parts = only.parts if isinstance(only, Either) else (only,)
    named = []
    for each in parts:
        if not isinstance(each, Comparison) or (each.path.lower(), each.operator) != ("value", "eq"):
            raise ScimError('Members are named by members[value eq "..."].', "invalidFilter")
        named.append(str(each.value))
    return named


def member_ids(type_: ResourceType, value: Any) -> dict[str, None]:
    """Return the ids of members as a client names them, each once, in their order. Raises `ScimError`."""
    attribute = type_.attribute(MEMBERS)
    if attribute is None:  # pragma: no cover
        raise TypeError("groups alone have members")
    found: dict[str, None] = {}
    for each in read_value(attribute, value) or ():
        if "value" not in each:
            raise ScimError("A member is named by its value.", "invalidValue")
        if each.get("type", "User").lower() != "user":
            raise ScimError("Members of a group are people: groups in groups are not kept.", "invalidValue")
        found[each["value"]] = None
    return found
