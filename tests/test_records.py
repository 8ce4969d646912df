"""What is said of rows, in words."""

from ntt_ray.records import note_lines


def test_notes_are_lines_that_say_how_many_and_what_to_do():
    lines = note_lines({"turned": 2, "narrow": 1, "of a later version": 3}, 4)
    assert [line.split(" images ")[0] for line in lines] == ["1 of 4", "3 of 4", "2 of 4"]
    assert "decode.sixteen_bit" in lines[0]
    assert lines[1] == "3 of 4 images of a later version"
    assert "decode.orientation" in lines[2]
