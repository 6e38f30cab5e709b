"""Shadow pages of two histories are matched by what they are."""

from typing import Any

from shadowmmu.show.diff.pairing import Pairing


def page(gfn: str, role: str = "3701", parents: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    return {"gfn": gfn, "role": role, "level": int(role[-1]), "parents": list(parents), **more}


def paired(left: dict[str, Any], right: dict[str, Any]) -> Pairing:
    pairing = Pairing()
    pairing.follow({"sps": left}, {"sps": right})
    return pairing


def test_pages_of_one_table_are_one_whatever_their_numbers():
    pairing = paired({"S1": page("1"), "S2": page("2")}, {"S1": page("2"), "S7": page("1")})
    assert pairing.in_left_names("S7[3] = S1|827") == "S1[3] = S2|827"


def test_a_page_that_the_left_side_lacks_has_a_prime():
    assert paired({"S1": page("1")}, {"S1": page("9")}).in_left_names("S1 removed") == "S1' removed"


def test_pages_of_equal_role_and_gfn_are_told_apart_by_the_way_from_the_root():
    left = {"S1": page("1", "3704"), "S2": page("5", parents=("S1[0]",)), "S3": page("5", parents=("S1[9]",))}
    right = {
        "S1": page("1", "3704"),
        "S2": page("5", parents=("S1[9]",)),
        "S3": page("5", parents=("S1[0]",)),
    }
    pairing = paired(left, right)
    assert pairing.in_left_names("S2 S3") == "S3 S2"


def test_a_page_of_another_role_is_paired_if_nothing_fits_better():
    pairing = paired({"S4": page("1", "3701")}, {"S2": page("1", "1701"), "S3": page("8")})
    assert pairing.in_left_names("S2 S3") == "S4 S3'"


def test_a_zapped_page_is_still_the_same():
    assert paired({"S4": page("1", "3701")}, {"S2": page("1", "3f01")}).in_left_names("S2") == "S4"


def test_a_pair_stays_while_both_are_alive_and_ends_with_them():
    pairing = paired({"S1": page("1")}, {"S9": page("1")})
    pairing.follow({"sps": {"S1": page("1"), "S2": page("1")}}, {"sps": {"S9": page("1")}})
    assert pairing.in_left_names("S9") == "S1"
    pairing.follow({"sps": {"S2": page("1")}}, {"sps": {"S9": page("1")}})
    assert pairing.in_left_names("S9") == "S2"


def test_parents_that_form_a_circle_end_the_way():
    left = {"S1": page("1", parents=("S2[0]",)), "S2": page("2", parents=("S1[0]",))}
    assert paired(left, left).in_left_names("S1 S2") == "S1 S2"
