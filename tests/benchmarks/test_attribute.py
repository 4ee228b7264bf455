"""What a dump of callgrind says of Python functions, by the stubs that they are called through."""

from benchmarks.attribute import read

PAIRS = "0\t\t\ta.py\tserve\n1\ta.py\tserve\tb.py\tparse\n"
# `serve` is called from outside and takes 100 with what it calls, of which `parse`, called twice, takes 30.
DUMP = """\
fn=stub_x000
1 2
cfn=_PyEval_EvalFrameDefault
calls=1 0
1 100

fn=stub_x001
1 1
cfn=_PyEval_EvalFrameDefault
calls=2 0
+3 30

fn=_PyEval_EvalFrameDefault
1 60
cfn=memcpy
calls=9 0
* 7

fn=memcpy
1 40
totals: 103
"""


def test_a_functions_own_instructions_are_those_within_it_less_those_of_the_functions_that_it_calls():
    found = read(DUMP, PAIRS)
    serve, parse = ("a.py", "serve"), ("b.py", "parse")
    assert found.total == 103
    assert (found.within[serve], found.own[serve], found.calls[serve]) == (100, 70, 1)
    assert (found.within[parse], found.own[parse], found.calls[parse]) == (30, 30, 2)
