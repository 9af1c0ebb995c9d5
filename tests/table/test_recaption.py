from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captionkit.errors import UsageError
from captionkit.inputs.ids import image_id
from captionkit.schema import FAILED
from captionkit.storage import Storage
from captionkit.table.check import check
from captionkit.table.compact import compact
from captionkit.table.recaption import Chosen, RecaptionWriter, choose
from captionkit.table.table import CaptionTable, Container, Footer, Maker
from captionkit.table.writer import TableWriter, stored_columns
from tests.support.table_rows import FOOTER, rows, write

STORAGE = Storage()
OLD, NEW = FOOTER.maker, Maker("ck-1", {"beam": 5})
URIS = [f"/{n}.jpg" for n in range(6)]


def anew(uris: list[str], **extra: object) -> pa.Table:
    return rows(uris, **{"model": "ck-1", "run_id": "r2", "caption": "new", "score": -0.1, **extra})


def broken(uris: list[str]) -> pa.Table:
    return anew(uris, status=FAILED, caption=None, score=None, alternatives=None, error_kind="timeout", error="late")


def recaption(table: CaptionTable, chosen: Chosen, *parts: pa.Table) -> RecaptionWriter:
    columns = stored_columns({})
    fresh = TableWriter(table, "r2", Footer(*NEW, {}), columns, flush_rows=10**6, flush_seconds=1e9)
    writer = RecaptionWriter(fresh, table, chosen, NEW, columns, flush_rows=10**6, flush_seconds=1e9)
    for part in parts:
        writer.add(part)
    writer.flush()
    return writer


def captions(table: CaptionTable) -> dict[str, tuple[str, str]]:
    return {row["uri"]: (row["caption"], row["model"]) for row in CaptionTable(table.uri, STORAGE).rows()}


@pytest.fixture
def table(tmp_path: Path) -> CaptionTable:
    """Two files of three rows, the scores from -0 to -5."""
    parts = [pa.concat_tables([rows([URIS[n]], score=-float(n)) for n in part]) for part in ((0, 1, 2), (3, 4, 5))]
    return write(tmp_path / "t", *parts, every=3)


def test_a_condition_chooses_others_rows_and_every_reader_meets_each_image_once(table: CaptionTable) -> None:
    chosen, failed = choose(table, "score < -1.5 and score > -4.5", NEW)
    assert failed == []
    assert chosen.ids.tolist() == sorted(image_id(uri, "v1") for uri in URIS[2:5])
    assert chosen.find(chosen.ids).tolist() == [0, 1, 2]
    writer = recaption(table, chosen, anew(URIS[2:4]), broken([URIS[4]]), anew(["/new.jpg"]))
    assert (writer.replaced, writer.kept, writer.in_containers) == (2, 1, 0)
    old = {uri: (f"caption of {uri}", "ck-0") for uri in URIS}
    wanted = {**old, **dict.fromkeys([*URIS[2:4], "/new.jpg"], ("new", "ck-1"))}
    assert captions(table) == wanted
    # The places in a file stay, and readers that know nothing of captionkit see the same.
    assert pq.read_table(table.files[0].uri)["uri"].to_pylist() == URIS[:3]
    assert len(pq.read_table(table.uri)) == 7
    again = CaptionTable(table.uri, STORAGE)
    assert [file.footer.makers() for file in again.files] == [[OLD, NEW], [OLD, NEW], [NEW]]
    before = {uri: row["caption"] for uri, row in writer.before.items()}
    assert before == {uri: f"caption of {uri}" for uri in URIS[2:4]}
    # What the new one has made is not chosen again, what it failed on is.
    left, _ = choose(again, "score < -1.5 and score > -4.5 or caption = 'new'", NEW)
    assert left.ids.tolist() == [image_id(URIS[4], "v1")]
    # The old one may take its turn.
    back, _ = choose(again, "caption = 'new'", OLD)
    assert len(back) == 3


def test_what_a_death_between_two_files_leaves_is_gone_on_with(table: CaptionTable) -> None:
    chosen, _ = choose(table, "all", NEW)
    # The driver dies when one file of two is rewritten: as when only that one's rows had come.
    recaption(table, chosen, anew(URIS[:3]))
    again = CaptionTable(table.uri, STORAGE)
    rest, _ = choose(again, "all", NEW)
    assert rest.ids.tolist() == sorted(image_id(uri, "v1") for uri in URIS[3:])
    recaption(again, rest, anew(URIS[3:]))
    assert captions(table) == dict.fromkeys(URIS, ("new", "ck-1"))


def test_a_table_that_was_made_anew_whole_is_the_new_makers_alone(table: CaptionTable) -> None:
    chosen, _ = choose(table, "all", NEW)
    recaption(table, chosen, anew(URIS))
    again = CaptionTable(table.uri, STORAGE)
    assert [file.footer for file in again.files] == [Footer(*NEW, {})] * 2
    assert check(table.uri, STORAGE, coverage=False).models == ["ck-1"]
    assert len(choose(again, "all", NEW)[0]) == 0


def test_merging_files_of_two_makers_forgets_none(table: CaptionTable) -> None:
    recaption(table, choose(table, "score < -1.5", NEW)[0], anew([URIS[2], URIS[5]]))
    compact(table.uri, STORAGE)
    again = CaptionTable(table.uri, STORAGE)
    assert [(file.rows, file.footer) for file in again.files] == [(6, Footer(*OLD, {}, {}, {"r2": NEW}))]
    assert choose(again, "score < -1.5", NEW)[0].ids.tolist() == sorted(image_id(uri, "v1") for uri in URIS[3:5])
    # Rows taken out leave nobody behind that made none.
    again.drop([(again.files[0], choose(again, "caption = 'new'", OLD)[0].ids)])
    assert CaptionTable(table.uri, STORAGE).files[0].footer == Footer(*OLD, {})


def test_two_makers_are_a_finding_but_for_tables_of_which_a_run_said_so(table: CaptionTable) -> None:
    recaption(table, choose(table, "score < -1.5", NEW)[0], anew([URIS[2]]))
    report = check(table.uri, STORAGE, coverage=False)
    assert report.models == ["ck-0", "ck-1"]
    assert set(report.problems) == {"models"}


def test_failed_rows_come_again_and_members_of_shards_take_their_places(tmp_path: Path) -> None:
    members = [f"/s.tar#{n}.jpg" for n in range(3)]
    failure = rows(["/bad.jpg"], status=FAILED, caption=None, score=None, error_kind="timeout", error="late")
    shard = rows(members, container_rows=3)
    table = write(tmp_path / "t", pa.concat_tables([failure, shard]), every=100)
    chosen, failed = choose(table, "all", NEW)
    assert [(file.uri, ids.tolist()) for file, ids in failed] == [(table.files[0].uri, [image_id("/bad.jpg", "v1")])]
    assert set(chosen.containers) == {"/s.tar"}
    table.drop(failed)
    # The second reading broke: what is known of the shard stays, and its own row is not written.
    writer = recaption(table, chosen, anew(members[:1]), broken(["/s.tar"]))
    assert (writer.replaced, writer.in_containers, writer.lost(["/s.tar"])) == (1, 2, 0)
    assert CaptionTable(table.uri, STORAGE).files[0].footer.containers == {"/s.tar": Container("v1", 3, 3)}
    assert [caption for caption, _ in captions(table).values()] == ["new", *(f"caption of {m}" for m in members[1:])]
    # One that does not come is missed.
    table = CaptionTable(table.uri, STORAGE)
    chosen, _ = choose(table, "all", NEW)
    assert recaption(table, chosen, anew(members[1:2])).lost(["/s.tar"]) == 1


@pytest.mark.parametrize("where", ["", "score <", "nothing = 1", "all of them"])
def test_what_is_no_condition_is_refused_by_the_options_name(table: CaptionTable, where: str) -> None:
    with pytest.raises(UsageError, match="--recaption-where"):
        choose(table, where, NEW)
