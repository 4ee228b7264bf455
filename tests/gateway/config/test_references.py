"""`${VAR}` and `${VAR:-default}`."""

import pytest

from gateway.config.source import Unset, expand, refers
from tests.support.tables import Tables

TABLES = Tables(__file__)

ENVIRON = {"KEY": "value", "EMPTY": ""}


@TABLES.each("expansion")
def test_expansion(text, expanded):
    assert expand(text, ENVIRON) == expanded


@pytest.mark.parametrize("text", ["${NONE}", "${EMPTY}", "a${NONE}b"])
def test_a_variable_without_a_value_is_unset(text):
    with pytest.raises(Unset, match="is not set; set it, or write"):
        expand(text, ENVIRON)


@pytest.mark.parametrize("text", ["${", "${KEY", "${KEY-x}", "${1KEY}", "${a b}", "${KEY} ${"])
def test_other_forms_are_refused(text):
    with pytest.raises(ValueError, match=r"expected \$\{NAME\}"):
        expand(text, ENVIRON)


def test_a_value_is_not_expanded_again():
    assert expand("${KEY}", {"KEY": "${OTHER}"}) == "${OTHER}"


def test_refers():
    assert refers("a${KEY}")
    assert not refers("a$KEY")
