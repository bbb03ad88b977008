"""The example in the docstring of `pika_balancer.testing` is collected here, and passes as it stands."""

import re

from pika_balancer import testing

EXAMPLES = re.findall(r"^```python\n(.*?)^```$", testing.__doc__ or "", re.MULTILINE | re.DOTALL)

for _example in EXAMPLES:
    exec(_example)  # noqa: S102 - the project's own, so that pytest finds its fixture and its test in here


def test_the_example_was_found() -> None:
    assert [name for name in globals() if name.startswith("test_a_rejected")]
