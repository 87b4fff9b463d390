"""Files that come, change and go over several runs, drawn by hypothesis."""

from hypothesis import strategies as st

NAMES = ["a.jpg", "b.jpg", "c/d.jpg", "e.jpg", "f.tar", "g.jpg", "h.tar"]


@st.composite
def histories(draw):
    """Draws nights: which files come, change or go in each, and how many units are then done."""
    change = st.tuples(st.sampled_from(NAMES), st.integers(0, 3))
    return [
        {
            "changes": draw(st.lists(change, max_size=6)),
            "unit_images": draw(st.integers(1, 4)),
            "done": draw(st.integers(0, 3)),
        }
        for _ in range(draw(st.integers(1, 5)))
    ]
