"""Counting the writes to a table between two uses of it (specification 9.4)."""

from shadowmmu.kvm.pages.write_flooding import detect_write_flooding
from shadowmmu.kvm.state.shadow_page import ShadowPage


def test_the_third_write_is_a_flood_but_never_to_a_leaf_table() -> None:
    upper, leaf = ShadowPage(1, 0x702, 0x7000, 0), ShadowPage(1, 0x701, 0x7000, 0)
    assert [detect_write_flooding(upper, 3) for _ in range(4)] == [False, False, True, True]
    assert [detect_write_flooding(leaf, 3) for _ in range(4)] == [False] * 4
    assert (upper.write_flooding_count, leaf.write_flooding_count) == (4, 0)
