"""What a user and a group have: attributes with their types, as `/Schemas` describes them, and how what a client sends
is read by them. Pure.

Names of attributes are compared in one case (RFC 7643, section 2.1). What RFC 7643 knows and Metergate has no use for,
such as addresses, phone numbers and passwords, is taken and not kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from billing.errors import MetergateError

CORE: Final = "urn:ietf:params:scim:schemas:core:2.0:"
USER: Final = f"{CORE}User"
GROUP: Final = f"{CORE}Group"
MOST_TEXT: Final = 256
MOST_VALUES: Final = 20
# An id that the directory gives.
MOST_EXTERNAL: Final = 256

Kind = Literal["string", "boolean", "complex", "reference", "dateTime"]
ErrorType = Literal[
    "invalidFilter", "invalidPath", "invalidSyntax", "invalidValue", "mutability", "noTarget", "tooMany", "uniqueness"
]
Resource = dict[str, Any]


class ScimError(MetergateError):
    """What a client has asked for can't be: `status` of HTTP, and `type` as RFC 7644, section 3.12, names it."""

    kind = "invalid"

    def __init__(self, message: str, type_: ErrorType | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.type, self.status = type_, status


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """An attribute: `parts` are those of a complex one, `many` is whether it has several values. One that is `assumed`
    may be left out where it is required."""

    name: str
    about: str
    kind: Kind = "string"
    parts: tuple[Attribute, ...] = ()
    many: bool = False
    required: bool = False
    assumed: bool = False
    exact: bool = False
    read_only: bool = False
    immutable: bool = False
    unique: bool = False
    most: int = MOST_TEXT
    values: tuple[str, ...] = ()
    refers: tuple[str, ...] = ()

    def part(self, name: str) -> Attribute | None:
        """Return the part of this name, whatever its case."""
        return _named(self.parts, name)

    @property
    def described(self) -> dict[str, Any]:
        """Return it as a schema has it (RFC 7643, section 7)."""
        described: dict[str, Any] = {
            "name": self.name,
            "type": self.kind,
            "multiValued": self.many,
            "description": self.about,
            "required": self.required,
            "mutability": "readOnly" if self.read_only else "immutable" if self.immutable else "readWrite",
            "returned": "default",
        }
        if self.kind in ("string", "reference"):
            described |= {"caseExact": self.exact, "uniqueness": "server" if self.unique else "none"}
        if self.values:
            described["canonicalValues"] = list(self.values)
        if self.refers:
            described["referenceTypes"] = list(self.refers)
        if self.parts:
            described["subAttributes"] = [part.described for part in self.parts]
        return described


def _named(attributes: tuple[Attribute, ...], name: str) -> Attribute | None:
    wanted = name.lower()
    return next((each for each in attributes if each.name.lower() == wanted), None)


def _text(name: str, about: str, **more: Any) -> Attribute:
    return Attribute(name=name, about=about, **more)


# Of every resource; no schema describes them (RFC 7643, section 3.1).
COMMON: Final = (
    _text("id", "The id of the resource here.", exact=True, read_only=True),
    _text("externalId", "Its id in the directory.", exact=True, most=MOST_EXTERNAL),
    Attribute(
        name="meta",
        about="What is known of the resource.",
        kind="complex",
        read_only=True,
        parts=(
            _text("resourceType", "What it is.", exact=True, read_only=True),
            _text("created", "When it was made.", kind="dateTime", read_only=True),
            _text("lastModified", "When it was changed.", kind="dateTime", read_only=True),
            _text("location", "Its address.", kind="reference", exact=True, read_only=True),
            _text("version", "Its version, as in ETag.", exact=True, read_only=True),
        ),
    ),
)
_NAME: Final = Attribute(
    name="name",
    about="The parts of the person's name.",
    kind="complex",
    parts=tuple(
        _text(name, about)
        for name, about in (
            ("formatted", "The whole name."),
            ("familyName", "The family name."),
            ("givenName", "The given name."),
            ("middleName", "Middle names."),
            ("honorificPrefix", "What stands before the name."),
            ("honorificSuffix", "What stands after the name."),
        )
    ),
)
_EMAILS: Final = Attribute(
    name="emails",
    about="The person's addresses: the primary one, or else the first, is the one that they sign in with.",
    kind="complex",
    many=True,
    parts=(
        _text("value", "The address."),
        _text("display", "How it is shown."),
        _text("type", "What it is for.", values=("work", "home", "other")),
        _text("primary", "Whether it is the one that they sign in with.", kind="boolean"),
    ),
)
_GROUPS: Final = Attribute(
    name="groups",
    about="The groups that the person is in, which are changed as groups.",
    kind="complex",
    many=True,
    read_only=True,
    parts=(
        _text("value", "The group's id here.", exact=True, read_only=True),
        _text("$ref", "Its address.", kind="reference", exact=True, read_only=True, refers=("Group",)),
        _text("display", "Its name.", read_only=True),
        _text("type", "How they belong to it.", read_only=True, values=("direct",)),
    ),
)
USER_ATTRIBUTES: Final = (
    _text(
        "userName", "The name in the directory, which is an address where emails has none.", required=True, unique=True
    ),
    _NAME,
    _text("displayName", "The name that is shown."),
    Attribute(
        name="active",
        about="Whether the person belongs to the company: unless it says otherwise, who is added does.",
        kind="boolean",
        required=True,
        assumed=True,
    ),
    _EMAILS,
    _GROUPS,
)
_MEMBERS: Final = Attribute(
    name="members",
    about="People of this directory who are in the group; groups in groups are not kept.",
    kind="complex",
    many=True,
    parts=(
        _text("value", "The person's id here.", exact=True, immutable=True),
        _text("$ref", "Their address.", kind="reference", exact=True, immutable=True, refers=("User",)),
        _text("type", "What the member is.", immutable=True, values=("User",)),
    ),
)
GROUP_ATTRIBUTES: Final = (
    _text("displayName", "The name, by which rules know the group.", required=True, unique=True),
    _MEMBERS,
)
# What RFC 7643 knows of a user (sections 4.1 and 4.3) and is not kept.
_NOT_KEPT: Final = frozenset(
    (
        *("nickname", "profileurl", "title", "usertype", "preferredlanguage", "locale", "timezone", "password"),
        *("phonenumbers", "ims", "photos", "addresses", "entitlements", "roles", "x509certificates", "schemas"),
        *("manager", "department", "employeenumber", "costcenter", "organization", "division"),
    )
)


@dataclass(frozen=True, slots=True)
class ResourceType:
    """Users or groups: `schema` is the schema's URN, `endpoint` where they are."""

    name: Literal["User", "Group"]
    endpoint: Literal["Users", "Groups"]
    schema: str
    about: str
    attributes: tuple[Attribute, ...]

    def attribute(self, name: str) -> Attribute | None:
        """Return the attribute of this name, common ones among them, whatever its case; None for none."""
        return _named(self.attributes, name) or _named(COMMON, name)

    def strip(self, path: str) -> str:
        """Return a path without the schema's URN before it."""
        prefix = f"{self.schema}:"
        return path[len(prefix) :] if path.lower().startswith(prefix.lower()) else path

    def is_ignored(self, name: str) -> bool:
        """Return whether this names something that is taken and not kept: what RFC 7643 knows beside the attributes
        here, and extensions."""
        return name.lower() in _NOT_KEPT or name.lower().startswith("urn:")


USERS: Final = ResourceType("User", "Users", USER, "People of the organization's directory.", USER_ATTRIBUTES)
GROUPS: Final = ResourceType("Group", "Groups", GROUP, "Groups of the organization's directory.", GROUP_ATTRIBUTES)


def read_resource(type_: ResourceType, given: Mapping[str, Any]) -> Resource:
    """Return what a client sends as it is kept: names as schemas spell them, without what is null, not kept, or not a
    client's to say. Raises `ScimError`."""
    read: Resource = {}
    for name, value in given.items():
        attribute = type_.attribute(type_.strip(name))
        if attribute is not None and not attribute.read_only:
            found = read_value(attribute, value)
            if found is not None:
                read[attribute.name] = found
    for attribute in type_.attributes:
        if attribute.required and not attribute.assumed and attribute.name not in read:
            raise ScimError(f"{attribute.name} is required.", "invalidValue")
    return read


def read_value(attribute: Attribute, value: Any) -> Any:
    """Return a value of an attribute as it is kept; None where there is none. Raises `ScimError`."""
    if value is None:
        return None
    if not attribute.many:
        return _read_one(attribute, value)
    values = value if isinstance(value, list) else [value]
    if attribute is not _MEMBERS and len(values) > MOST_VALUES:
        raise ScimError(f"{attribute.name} has at most {MOST_VALUES} values.", "invalidValue")
    found = [one for each in values if (one := _read_one(attribute, each)) is not None]
    if sum(each.get("primary") is True for each in found) > 1:
        raise ScimError(f"One of {attribute.name} is primary.", "invalidValue")
    return found or None


def _read_one(attribute: Attribute, value: Any) -> Any:
    match attribute.kind:
        case "complex":
            if isinstance(value, str) and attribute.many:
                value = {"value": value}
            if not isinstance(value, Mapping):
                raise ScimError(f"{attribute.name} is an object.", "invalidValue")
            found = {}
            for name, each in value.items():
                part = attribute.part(name)
                if part is not None and (one := read_value(part, each)) is not None:
                    found[part.name] = one
            return found or None
        case "boolean":
            return _boolean(attribute, value)
        case _:
            if not isinstance(value, str) or len(value) > attribute.most or "\0" in value:
                raise ScimError(f"{attribute.name} is a text of at most {attribute.most} characters.", "invalidValue")
            return value or None


def _boolean(attribute: Attribute, value: Any) -> bool:
    """Return a truth value, which Entra sends as a text, too."""
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise ScimError(f"{attribute.name} is true or false.", "invalidValue")
    return value


def address_of(user: Resource) -> str:
    """Return the address that a user signs in with, as the directory has it: the primary one, else that for work, else
    the first, else the name."""
    emails = [each for each in user.get("emails", ()) if each.get("value")]
    for wanted in ({"primary": True}, {"type": "work"}, {}):
        for each in emails:
            if wanted.items() <= each.items():
                return str(each["value"])
    return str(user["userName"])


def projected(type_: ResourceType, resource: Resource, wanted: list[str], unwanted: list[str]) -> Resource:
    """Return a resource with the attributes that are wanted (RFC 7644, section 3.9), or without those that are not;
    `id` and `schemas` are always there."""
    always = {"schemas", "id"}
    if wanted:
        kept: Resource = {name: resource[name] for name in resource if name in always}
        for name, part in _paths(type_, wanted):
            if name in resource and name not in always:
                value = resource[name] if part is None else _with_part(resource[name], part, kept.get(name))
                kept[name] = value
        return {name: kept[name] for name in resource if name in kept}
    left = dict(resource)
    for name, part in _paths(type_, unwanted):
        if name not in always and name in left:
            if part is None:
                del left[name]
            else:
                left[name] = _without_part(left[name], part)
    return left


def _paths(type_: ResourceType, names: list[str]) -> Iterator[tuple[str, str | None]]:
    for each in names:
        name, _, part = type_.strip(each.strip()).partition(".")
        attribute = type_.attribute(name)
        if attribute is not None:
            found = attribute.part(part) if part else None
            if found is not None or not part:
                yield attribute.name, None if found is None else found.name


def _with_part(value: Any, part: str, kept: Any) -> Any:
    if isinstance(value, list):
        before = kept if isinstance(kept, list) else [{} for _ in value]
        return [{**old, **_with_part(each, part, None)} for old, each in zip(before, value, strict=True)]
    return {**(kept or {}), **({part: value[part]} if part in value else {})}


def _without_part(value: Any, part: str) -> Any:
    if isinstance(value, list):
        return [_without_part(each, part) for each in value]
    return {name: each for name, each in value.items() if name != part}
