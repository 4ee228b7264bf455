"""`identity` of metergate.yaml: who is let in, and where people sign in elsewhere."""

import pytest

from billing.identity.providers import SignInProvider
from gateway.config.settings import ConfigError
from tests.gateway.config.support import MAIN, load

PUBLIC = '  public_url: "https://llm.example.com/"\n'
GOOGLE = """\
  providers:
    google:
      {issuer: "https://accounts.google.com/", client_id: "id", client_secret: "${SECRET}", trusted_email: true,
       allowed_domains: [example.com]}
    github: {client_id: "id", client_secret: "${SECRET}"}
    own:
      {kind: github, issuer: "https://git.example.com", api_url: "https://git.example.com/api/v3", client_id: "id",
       client_secret: "${OTHER}", scopes: [user]}
"""


def test_providers(tmp_path):
    identity = load(tmp_path, {"SECRET": "s", "OTHER": "o"}, main=f"{MAIN}identity:\n{PUBLIC}{GOOGLE}").identity
    assert (identity.approval, identity.public_url) == ("verified", "https://llm.example.com")
    google = SignInProvider(
        "https://accounts.google.com", "id", "s", trusted_email=True, allowed_domains=frozenset({"example.com"})
    )
    github = SignInProvider(
        "https://github.com", "id", "s", "github", ("read:user", "user:email"), api_url="https://api.github.com"
    )
    own = SignInProvider(
        "https://git.example.com", "id", "o", "github", ("user",), api_url="https://git.example.com/api/v3"
    )
    assert identity.providers == {"google": google, "github": github, "own": own}
    assert "'s'" not in repr(identity)


def test_a_provider_of_an_organization(tmp_path):
    entry = '{issuer: "https://a", client_id: i, client_secret: s, organization: org_01M7, groups_claim: roles}'
    section = f"{PUBLIC}  providers: {{a: {entry}}}\n"
    found = load(tmp_path, {}, main=f"{MAIN}identity:\n{section}").identity.providers["a"]
    assert (found.organization, found.groups_claim) == ("org_01M7", "roles")


def test_a_provider_without_its_secret_is_off(tmp_path):
    found = load(tmp_path, {"SECRET": "s"}, main=f"{MAIN}identity:\n{PUBLIC}{GOOGLE}").identity.providers
    assert set(found) == {"google", "github"}


@pytest.mark.parametrize(
    ("section", "told"),
    [
        (GOOGLE, "public_url"),
        (PUBLIC + "  providers: {a: {client_id: i, client_secret: s}}\n", "issuer"),
        (PUBLIC + '  providers: {a: {issuer: "ftp://a", client_id: i, client_secret: s}}\n', "https://"),
        (PUBLIC + '  providers: {A B: {issuer: "https://a", client_id: i, client_secret: s}}\n', "name"),
        (PUBLIC + '  providers: {a: {issuer: "https://a", client_secret: s}}\n', "client_id"),
        (PUBLIC + '  providers: {a: {issuer: "https://a", client_id: i, client_secret: s, scope: x}}\n', "scope"),
        (PUBLIC + "  providers: {github: {client_id: i, client_secret: s, allowed_domains: [localhost]}}\n", "domain"),
        (PUBLIC + "  providers: {github: {client_id: i, client_secret: s, kind: saml}}\n", "oidc, github"),
        (PUBLIC + '  providers: {a: {issuer: "https://a", client_id: i, client_secret: s, organization: x}}\n', "org_"),
        (PUBLIC + "  providers: {github: {client_id: i, client_secret: s, organization: org_1}}\n", "no groups"),
        (PUBLIC + "  approval: never\n", "approved"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, section, told):
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, {"SECRET": "s", "OTHER": "o"}, main=f"{MAIN}identity:\n{section}")
    assert told in str(refused.value)
