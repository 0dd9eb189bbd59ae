"""Data addresses: what each kind gives on real files, and one clear error for each kind of bad
input.
"""

import gzip
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertvariants_jax.data import prose
from bertvariants_jax.data.documents import detect, read_documents, sentences, text_document
from bertvariants_jax.data.source import open_source


def write(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def documents(address, **options):
    return [d.sentences for d in open_source(address, **options).documents()]


# ---- text and its layouts


def test_bert_convention_is_read_as_it_stands(tmp_path):
    text = "One sentence. Not to be cut.\nSecond\u2028line\x85 it is\n\n\n  Next document  \r\n"
    text += "Its end\n \t\nThird"
    expected = [
        ["One sentence. Not to be cut.", "Second\u2028line\x85 it is"],
        ["Next document", "Its end"],
        ["Third"],
    ]
    assert documents(f"text:{write(tmp_path / 'a.txt', text)}") == expected
    assert documents(f"text:{write(tmp_path / 'b.txt.gz', text)}") == expected
    assert (
        documents(f"text:{write(tmp_path / 'c.dat', gzip.compress(text.encode()))}") == expected
    )  # by content, not by name
    assert (
        documents(f"text:{tmp_path}/*.txt*") == expected * 2
    )  # a document does not go on in the next file
    bom = write(tmp_path / "bom.dat", b"\xef\xbb\xbfA b\nC d")
    assert documents(f"text:{bom}") == [["A b", "C d"]]


def test_chinese_sentences_file(shared_data):
    address = f"text:{shared_data}/pretrain/CLUECorpusSmall_bert_sampled.txt.gz"
    found = documents(address)
    assert (len(found), sum(map(len, found))) == (2500, 18141)  # as its description counts them
    with gzip.open(address[5:], "rt", encoding="utf-8") as file:
        assert [line.strip() for line in file if line.strip()] == [s for d in found for s in d]


def test_wikiextractor(shared_data):
    for name, articles in (("enwiki_featured_part1.txt.gz", 556), ("zhwiki.txt.gz", 2581)):
        path = shared_data / "pretrain" / name
        found = list(open_source(f"text:{path}").documents())
        assert len(found) == articles
        assert not any(
            "<doc" in s or "</doc>" in s or "&lt;" in s for d in found for s in d.sentences
        )
        assert not any(d.sentences[0] == d.name for d in found)
        assert np.mean([len(d.sentences) for d in found]) > 15
    lines = [
        '<doc id="1" url="u" title="A &amp; B">',
        "A & B",
        "",
        "Heading.",
        "x" * 50 + " is one. This &lt;b&gt; is two.",
        "</doc>",
        '<doc id="2" url="u" title="Empty">',
        "Empty",
        "</doc>",
        '<doc id="3" url="u" title="C">',
        "A line of text without end" * 3,
    ]
    found = list(read_documents(lines))
    assert [(d.name, len(d.sentences)) for d in found] == [("A & B", 2), ("C", 1)]
    assert found[0].sentences[1] == "This <b> is two."


def test_wikitext(shared_data):
    found = list(open_source(f"text:{shared_data}/pretrain/wikitext-2/valid.txt").documents())
    assert len(found) == 60 and found[0].name == "Homarus gammarus"
    assert (
        found[0].sentences[1] == "It is closely related to the American lobster , H. americanus ."
    )
    assert not any(s.startswith("=") or "@-@" in s for d in found for s in d.sentences)


def test_books(shared_data):
    chapters = {
        "pride_and_prejudice_1342": 61,
        "sherlock_holmes_1661": 12,
        "war_and_peace_2600": 366,
        "moby_dick_2701": 136,
    }
    for name, count in chapters.items():
        found = list(
            open_source(f"text:{shared_data}/pretrain/gutenberg/{name}.txt.gz").documents()
        )
        assert abs(len(found) - count) <= 2, name
        assert not any(
            "EBook" in s or "Gutenberg License" in s for d in found for s in d.sentences
        ), name
    text = " ".join(found[0].sentences + found[1].sentences)
    assert (
        "Call me Ishmael. Some years ago--never mind how long precisely--having little"
        in text.replace("—", "--")
    )


def test_hard_wrapped_text_without_markers():
    lines = textwrap.wrap(
        "This is a sentence of a plain book that nobody marked, wrapped at seventy columns. " * 12,
        70,
    )
    found = list(read_documents([*lines, "", *lines]))
    assert len(found) == 1 and len(found[0].sentences) == 24


def test_paragraph_lines():
    line = "The first sentence of a paragraph. The second sentence of it! And is this a third one?"
    assert detect([line, ""] * 6) == "paragraphs" and detect([line, line, ""] * 6) == "sentences"
    found = list(read_documents([line, ""] * 6))
    assert len(found) == 1 and len(found[0].sentences) == 18
    assert (
        len(list(read_documents([line, ""] * 6, "sentences"))) == 6
    )  # the caller's word goes before the content
    with pytest.raises(ValueError, match="unknown layout 'x'"):
        read_documents(["a"], "x")


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "Mr. Smith met Dr. J. Watson at 3.14 p.m. They left.",
            ["Mr. Smith met Dr. J. Watson at 3.14 p.m. They left."],
        ),
        (
            "He said “Stop!” Then he left. (She stayed.) The end",
            ["He said “Stop!”", "Then he left.", "(She stayed.)", "The end"],
        ),
        (
            "What?! No... yes. And 2 more e.g. These",
            ["What?!", "No... yes.", "And 2 more e.g. These"],
        ),
        ("他来了。“你好！”他说。再见", ["他来了。", "“你好！”", "他说。", "再见"]),
        ("", []),
        ("   ", []),
        ("No end", ["No end"]),
        ("One.  Two.", ["One.", "Two."]),
    ],
)
def test_sentences(text, expected):
    assert sentences(text) == expected


@given(st.text(alphabet=st.sampled_from("ab AB.!?。”\"' 1é\n"), max_size=60))
def test_sentences_lose_nothing_but_blanks(text):
    cut = sentences(text)
    assert "".join("".join(cut).split()) == "".join(text.split())
    assert all(s == s.strip() and s for s in cut)


def test_text_of_a_record():
    assert text_document("One. Two here.\n\nThree").sentences == ["One.", "Two here.", "Three"]


# ---- records


def test_glue_tables(shared_data):
    """Row counts that a quote character or a wrong line end would change."""
    counts = {
        "MRPC/train.tsv.gz": 3668,
        "MRPC/dev.tsv": 408,
        "SST-2/train.tsv.gz": 67349,
        "SST-2/dev.tsv": 872,
        "STS-B/train.tsv.gz": 5749,
        "STS-B/dev.tsv": 1500,
        "RTE/train.tsv.gz": 2490,
        "WNLI/train.tsv": 635,
    }
    for name, count in counts.items():
        rows = open_source(f"tsv:{shared_data}/glue/{name}")
        assert len(rows) == count, name
    mrpc = open_source(f"tsv:{shared_data}/glue/MRPC/train.tsv.gz")
    assert mrpc.fields == ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String") and set(
        mrpc.column("Quality")
    ) == {"0", "1"}
    cola = open_source(f"tsv:{shared_data}/glue/CoLA/train.tsv", header=False)
    assert len(cola) == 8551 and cola.fields == ("0", "1", "2", "3")
    named = open_source(
        f"tsv:{shared_data}/glue/CoLA/train.tsv",
        header=False,
        columns=("source", "label", "star", "sentence"),
    )
    assert named[0]["sentence"] == cola[0]["3"] == cola[-len(cola)]["3"]
    with pytest.raises(ValueError, match=r"no field 'text'; it has: Quality, #1 ID"):
        mrpc.column("text")


def test_csv_keeps_quotes_commas_and_line_ends(tmp_path):
    path = write(
        tmp_path / "a.csv", 'text,label\n"He said ""no"", then left\nand came",1\nplain,0\n'
    )
    rows = open_source(f"csv:{path}")
    assert list(rows) == [
        {"text": 'He said "no", then left\nand came', "label": "1"},
        {"text": "plain", "label": "0"},
    ]


def test_jsonl_and_parquet_documents(tmp_path):
    rows = [
        {"body": "One is here. Two is here.\nThree.", "n": 1},
        {"body": "", "n": 2},
        {"body": ["As. Is.", " cut "], "n": 3},
    ]
    path = write(tmp_path / "a.jsonl.gz", "\n".join(json.dumps(r) for r in rows) + "\n\n")
    assert list(open_source(f"jsonl:{path}")) == rows
    assert documents(f"jsonl:{path}#body") == [
        ["One is here.", "Two is here.", "Three."],
        ["As. Is.", "cut"],
    ]
    with pytest.raises(
        ValueError, match="say which field is the text with #field; there are: body, n"
    ):
        documents(f"jsonl:{path}")
    with pytest.raises(ValueError, match="row 0 has no field 'text'; it has: body, n"):
        documents(f"jsonl:{path}#text")
    with pytest.raises(ValueError, match="row 0 holds int, not text: 1"):
        documents(f"jsonl:{path}#n")
    pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    import pyarrow

    pq.write_table(
        pyarrow.table({"text": ["One is here. Two is here."], "n": [1]}), tmp_path / "a.parquet"
    )
    source = open_source(f"parquet:{tmp_path}/*.parquet")
    assert source[0] == {"text": "One is here. Two is here.", "n": 1}
    assert documents(f"parquet:{tmp_path}/*.parquet") == [["One is here.", "Two is here."]]
    write(tmp_path / "b.parquet", "no")
    with pytest.raises(ValueError, match=r"b.parquet: not a Parquet file"):
        len(open_source(f"parquet:{tmp_path}/b.parquet"))


def test_records_of_text(tmp_path):
    path = write(tmp_path / "a.txt", "one\n\ntwo\n")
    rows = open_source(f"text:{path}")
    assert list(rows) == [{"text": "one"}, {"text": "two"}]


def test_files_elsewhere():
    fsspec = pytest.importorskip("fsspec", reason="needs fsspec")
    memory = fsspec.filesystem("memory")
    for name, content in (
        ("a.txt.gz", gzip.compress(b"one a\ntwo b\n\nthree\n", mtime=0)),
        ("b.txt", b"four"),
    ):
        with memory.open(f"/texts/{name}", "wb") as file:
            file.write(content)
    assert documents("text:memory://texts/*") == [["one a", "two b"], ["three"], ["four"]]
    assert open_source("text:memory://texts/*").fingerprint
    with pytest.raises(FileNotFoundError, match="no file matches memory://none"):
        open_source("text:memory://none/*")
    with pytest.raises(ValueError, match="nosuch://a/b: cannot read nosuch:// on this machine"):
        open_source("text:nosuch://a/b")


def test_fingerprint_follows_the_file(tmp_path):
    path = write(tmp_path / "a.txt", "one\ntwo")
    before = open_source(f"text:{path}").fingerprint
    assert (
        before
        == open_source(f"text:{path}").fingerprint
        == open_source(f"text:{tmp_path}/*").fingerprint
    )
    assert before != open_source(f"text:{path}", layout="book").fingerprint
    write(path, "one\ntwo\nthree")
    assert before != open_source(f"text:{path}").fingerprint


# ---- bad input


def test_a_label_before_each_text(tmp_path, shared_data):
    lines = "DESC:manner How did it begin ?\n\n4  two blanks \n"
    rows = list(open_source(f"labeled:{write(tmp_path / 'a.txt.gz', lines)}"))
    assert rows == [{"label": "DESC:manner", "coarse": "DESC", "text": "How did it begin ?"},
                    {"label": "4", "coarse": "4", "text": "two blanks"}]
    trec = open_source(f"labeled:{shared_data}/trec/TREC.train", encoding="latin-1")
    kinds, counts = np.unique(trec.column("coarse"), return_counts=True)
    assert dict(zip(kinds.tolist(), counts.tolist(), strict=True)) == {
        "ABBR": 86, "DESC": 1162, "ENTY": 1250, "HUM": 1223, "LOC": 835, "NUM": 896}
    assert len(set(trec.column("label"))) == 50
    assert len(open_source(f"labeled:{shared_data}/sentiment/sst5_train.txt.gz")) == 8544


def test_other_encodings(tmp_path):
    table = "text\tlabel\nl'été\tnonne\n"
    for kind, name in (("tsv", "latin-1"), ("csv", "cp1252"), ("tsv", "gb18030"), ("labeled", "utf-8")):
        text = table.replace("\t", "," if kind == "csv" else " " if kind == "labeled" else "\t")
        path = write(tmp_path / f"{name}.txt", text.encode(name))
        rows = open_source(f"{kind}:{path}", encoding=name)
        assert "l'été" in rows[-1].values() and (kind == "labeled" or rows.fields == ("text", "label"))
    with pytest.raises(ValueError, match=r"latin-1.txt, line 2, byte 3 .*not UTF-8 .*--task.encoding latin-1"):
        list(open_source(f"tsv:{tmp_path / 'latin-1.txt'}"))
    with pytest.raises(ValueError, match="Python knows no encoding 'latin-99'"):
        open_source(f"tsv:{tmp_path / 'latin-1.txt'}", encoding="latin-99")
    with pytest.raises(ValueError, match="'utf-16' writes newlines otherwise"):
        open_source(f"tsv:{tmp_path / 'latin-1.txt'}", encoding="utf-16")


@pytest.mark.parametrize(
    "address, error, message",
    [
        ("{}/a.txt", ValueError, "no data address: it must begin with one of text:, jsonl:"),
        ("xml:{}/a", ValueError, "no data address"),
        ("text:", ValueError, "names nothing after text:"),
        ("text:{}/none.txt", FileNotFoundError, "there is no file .*none.txt"),
        ("text:{}/*.none", FileNotFoundError, r"no file matches .*\*.none"),
        ("text:{}", FileNotFoundError, "is a folder: name its files"),
        ("docs:nosuchpackage", ValueError, "no package 'nosuchpackage'"),
    ],
)
def test_bad_addresses(tmp_path, address, error, message):
    with pytest.raises(error, match=message):
        list(open_source(address.format(tmp_path)).documents())


@pytest.mark.parametrize(
    "kind, name, content, message",
    [
        (
            "text",
            "a.txt",
            b"good\nbad \xe9 here\n",
            r"a.txt, line 2, byte 5 \(byte 10 of the text\): not UTF-8 \(0xe9\)",
        ),
        ("text", "a.txt", b"good\n\xff\xfeb", r"line 2, byte 1 \(byte 6"),
        ("text", "a.txt", b"", "there is no text in it"),
        ("text", "a.txt", b" \n\n \n", "there is no text in it"),
        (
            "text",
            "cut.txt",
            gzip.compress(b"some text that is long enough\n" * 9, mtime=0)[:-12],
            "gzip file is damaged or cut short",
        ),
        (
            "tsv",
            "a.tsv",
            b"text\tlabel\na\t1\nb\n",
            r"a.tsv, line 3: 1 fields, expected 2 \(text, label\)",
        ),
        ("tsv", "a.tsv", b"text\tlabel\na\t1\t2\n", "line 2: 3 fields, expected 2"),
        ("tsv", "a.tsv", b"", "the file is empty, not even a header"),
        ("tsv", "a.tsv", b"text\tlabel\n", "there is no row in it"),
        ("tsv", "a.tsv", b"a\ta\nb\tb\n", "names a field twice"),
        ("csv", "a.csv", b'text,label\n"a",1\n"b\n', r"a.csv, line \d: not CSV"),
        ("labeled", "a.txt", b"good text\n3\n", "a.txt, line 2: expected a label, a blank and a text"),
        ("csv", "a.csv", b"text,label\nx,1,2\n", "line 2: 3 fields, expected 2"),
        (
            "jsonl",
            "a.jsonl",
            b'{"text": "a"}\n{"text": "b',
            r"a.jsonl, line 2: not a whole JSON value",
        ),
        ("jsonl", "a.jsonl", b'{"text": "a"}\n[1]\n', "line 2: expected a JSON object"),
        ("jsonl", "a.jsonl", b"\n", "there is no"),
    ],
)
def test_bad_files(tmp_path, kind, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    source = open_source(f"{kind}:{path}")
    with pytest.raises(ValueError, match=message) as e:
        list(source.documents())
    assert "\n" not in str(e.value)
    with pytest.raises(ValueError, match=message.replace("no text", "no row")):
        len(source)


def test_bad_rows_are_counted(tmp_path):
    path = write(tmp_path / "qqp.tsv", "a\tb\n1\t2\n3\n4\t5\t6\n7\t8\n")
    rows = open_source(f"tsv:{path}", skip_bad_rows=True)
    assert [r["a"] for r in rows] == ["1", "7"] and rows.skipped == 2


SPREADSHEET = 'text\tlabel\n"a ""good"" movie, really"\tpos\n"bad"\tneg\nplain "in" it\tpos\n'


@pytest.mark.parametrize("change", [
    lambda text: text.encode(),
    lambda text: text.encode("utf-8-sig"),
    lambda text: text.replace("\n", "\r\n").encode(),
    lambda text: gzip.compress(text.encode()),
    lambda text: text.replace("text\tlabel", '"text"\t"label"').encode(),
], ids=["plain", "bom", "crlf", "gz", "quoted header"])
def test_a_tsv_of_a_spreadsheet_is_read_with_its_quotes(tmp_path, change, recwarn):
    (tmp_path / "a.tsv").write_bytes(change(SPREADSHEET))
    rows = open_source(f"tsv:{tmp_path / 'a.tsv'}")
    assert list(rows) == [{"text": 'a "good" movie, really', "label": "pos"}, {"text": "bad", "label": "neg"},
                          {"text": 'plain "in" it', "label": "pos"}]
    raw = open_source(f"tsv:{tmp_path / 'a.tsv'}", quotes="raw")
    assert [row[raw.fields[0]] for row in raw][:2] == ['"a ""good"" movie, really"', '"bad"']
    assert rows.fingerprint != raw.fingerprint and not [w for w in recwarn if w.category is UserWarning]


def test_quotes_over_tabs_and_lines_pair_where_the_file_is_no_table_without_them(tmp_path):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"two\nlines"\tpos\n"a\ttab"\tneg\n')
    assert [row["text"] for row in open_source(f"tsv:{tmp_path / 'a.tsv'}")] == ["two\nlines", "a\ttab"]


@pytest.mark.parametrize("lines", [
    ['"Hello there\tpos', "and\tneg"],                       # never closed
    ['"Yes," he said, "no"\tpos', '"fine"\tneg'],            # more behind a closing quote
    ['"Hello\tpos', 'bye"\tneg', "so\tpos"],                 # two that stand alone, and happen to make a pair
])
def test_a_tsv_whose_quotes_do_not_pair_is_read_as_it_stands_and_said(tmp_path, lines):
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "\n".join(lines) + "\n")
    with pytest.warns(UserWarning, match=r"a.tsv: fields begin with a quote \(line 2\), .*read as it stands") as said:
        rows = list(open_source(f"tsv:{tmp_path / 'a.tsv'}"))
    assert [f"{row['text']}\t{row['label']}" for row in rows] == lines and len(said) == 1
    forced = open_source(f"tsv:{tmp_path / 'a.tsv'}", quotes="quoted")
    if "bye" in lines[1]:
        assert [row["text"] for row in forced] == ["Hello\tpos\nbye", "so"]
    else:
        with pytest.raises(ValueError, match=r"a.tsv, line \d: not TSV with quotes"):
            len(forced)


def test_null_texts_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "one here."}\n{"text": null}\n{"text": "two there."}\n{"text": null}\n')
    with pytest.warns(UserWarning, match="2 rows whose text is null are left out, the first is row 1"):
        assert len(list(open_source(f"jsonl:{tmp_path / 'a.jsonl'}").documents())) == 2


# ---- TFDS and docs


def test_tfds(tmp_path):
    """A data set made here, read without TensorFlow; in a process of its own because TFDS registers
    classes for good.
    """
    pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets")
    code = """
    import sys
    import tensorflow_datasets as tfds
    from bertvariants_jax.data.source import open_source

    class ToyText(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        def _info(self):
            label = tfds.features.ClassLabel(num_classes=2)
            features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)
        def _split_generators(self, manager):
            return {"train": self._generate_examples(9), "test": self._generate_examples(4)}
        def _generate_examples(self, n):
            for i in range(n):
                yield i, {"text": f"Café {i} is open. It is good.", "label": i % 2}

    folder = sys.argv[1]
    ToyText(data_dir=folder, file_format="array_record").download_and_prepare()
    rows = open_source("tfds:toy_text:test", data_dir=folder)
    assert len(rows) == 4
    assert sorted(r["text"] for r in rows)[0] == "Café 0 is open. It is good.", list(rows)
    assert len(open_source("tfds:toy_text", data_dir=folder)) == 9
    assert len(open_source("tfds:toy_text:train[:50%]", data_dir=folder)) in (4, 5)
    assert sorted(d.sentences for d in rows.documents())[1][1] == "It is good."
    for address, words in (
        ("tfds:toy_text:dev", "there are: train, test"),
        ("tfds:no_such_set", "knows no such data set"),
    ):
        try:
            len(open_source(address, data_dir=folder))
        except ValueError as e:
            assert words in str(e) and "\\n" not in str(e), e
        else:
            raise AssertionError(address)
    assert "tensorflow" not in sys.modules
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.mark.long
def test_tfds_without_network(tmp_path):
    """glue is known (its registration needs an import of its own) but not there, and cannot be
    fetched, which TFDS tries again for minutes: one clear line.
    """
    pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets")
    code = """
    import socket, sys
    def refuse(*_, **__):
        raise OSError("no network in this test")
    socket.socket.connect = socket.getaddrinfo = refuse
    from bertvariants_jax.data.source import open_source
    try:
        len(open_source("tfds:glue/rte:validation", data_dir=sys.argv[1]))
    except ValueError as e:
        print("MESSAGE", e)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=400,
    )
    message = [line for line in run.stdout.splitlines() if line.startswith("MESSAGE")]
    assert message and "not prepared there, and preparing it failed" in message[0], run.stderr[
        -2000:
    ]


def test_docs_of_the_standard_library():
    source = open_source("docs:email,argparse,pydoc_data")
    found = list(source.documents())
    assert {d.group for d in found} == {"email", "argparse", "pydoc_data"}
    text = [s for d in found for s in d.sentences]
    assert len(text) > 1500 and len(text) > 0.97 * len(set(text))
    assert not any(">>>" in s or "::" in s or "Permission is hereby" in s for s in text)
    assert np.mean([s.rstrip("\"')")[-1] in ".?!" for s in text]) > 0.98
    assert [d.sentences for d in source.documents()] == [
        d.sentences for d in found
    ]  # the same each time
    assert set(source[0]) == {"text", "package", "name"} and source[0]["package"] == found[0].group
    assert source.fingerprint != open_source("docs:email").fingerprint


def test_prose_and_not_prose():
    keep = "The `method` returns a :class:`~collections.abc.Mapping` of the names that it is given."
    assert prose._prose(keep) == "The method returns a Mapping of the names that it is given."
    for paragraph in (
        "x = f(a, b); y = g(x) for the value of the function in the loop of the code.",
        "Licensed under the Apache License, Version 2.0 (the License); you may not use this file.",
        "Too short to be of use.",
        "======  ========  the table of the values of the things in a row.",
        "lower case at the start of a line that is from the middle of some other thing.",
        "Args: name: The name of the thing that is to be read from the file in the folder.",
    ):
        assert prose._prose(paragraph) == ""
