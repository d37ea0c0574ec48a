"""Sets out of packages: archives made by hand, hostile ones too, each set from its package, and what is refused."""

import gzip
import io
import json
import lzma
import subprocess
import tarfile

import files
import numpy as np
import packages as made
import pytest
from PIL import Image

from diffusion_jax.compose import command
from diffusion_jax.data import audio, media, sources
from diffusion_jax.tools import fetch
from diffusion_jax.tools.fetch import animated_emoji, archives, avatars, collection, emoji, spoken_digits, sprites

NAMES = [f"./arch/{kind}/{number}.111" for kind in ("monster", "wall") for number in range(30)]
LICENCE = b"Free for all, under some conditions."
ABOUT_EMOJI = b'{"set": "emoji", "files": {}, "num_training": 1, "num_held_out": 1, "classes": {}}'


def everything(path):
    return True


def crossfire(images) -> bytes:
    return b"".join(b"IMAGE %d %s\n%s" % (len(png), name.encode(), png) for name, png in images.items())


def sprites_deb(images=None, **options) -> bytes:
    images = images or {name: made.png(number) for number, name in enumerate(NAMES)}
    installed = {sprites.IMAGES: crossfire(images), sprites.LICENCE: LICENCE}
    return made.deb(sprites.PACKAGE, sprites.TRIED, installed, **options)


def run(capsys, *arguments):
    code = fetch.main(["fetch", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def stored(path):
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def test_an_ar_archive_gives_back_its_members():
    members = {"debian-binary": b"2.0\n", "odd": b"abc", "empty": b"", "last": b"\n\n"}
    assert archives.ar(made.ar(members)) == members


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        b"!<arch>\nshort",
        made.ar({"a": b"abc"})[:-2],
        made.ar({"a": b"abc"}).replace(b"3         `", b"4000000000`"),
        made.ar({"a": b"abc"}).replace(b"3         `", b"-3        `"),
        made.ar({"a": b"abc"}).replace(b"`\n", b"xx"),
    ],
)
def test_a_damaged_ar_archive_is_refused(content):
    with pytest.raises(ValueError, match="ar archive"):
        archives.ar(content)


def test_a_tar_archive_gives_files_but_neither_links_nor_folders():
    content = made.tar({"./a": b"1", "b/c": b"22", "left": b"333"}, links={"link": "/etc/passwd", "./d": "a"})
    found = archives.tar(io.BytesIO(content), lambda path: path != "left")
    assert list(found) == [("a", b"1"), ("b/c", b"22")]


@pytest.mark.parametrize("path", ["/etc/passwd", "../outside", "a/../../outside"])
def test_a_path_that_leads_outside_is_refused(path):
    with pytest.raises(ValueError, match="which would lie outside"):
        list(archives.tar(io.BytesIO(made.tar({path: b"x"})), everything))


def test_what_unpacks_to_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(archives, "MOST_UNPACKED", 2**20)
    bomb = made.deb("bomb", "1", {"zeros": bytes(2**21)})
    assert len(bomb) < 2**14
    with pytest.raises(ValueError, match="unpacks to more than 1,048,576 bytes"):
        list(archives.deb(bomb, "data", everything))
    monkeypatch.setattr(archives, "MOST_OF_A_FILE", 2**10)
    with pytest.raises(ValueError, match="zeros' has 2,048 bytes, and 1,024 are allowed"):
        list(archives.tgz(made.tgz("bomb", "1", {"zeros": bytes(2**11)}), lambda path: path.endswith("zeros")))


def test_a_header_that_promises_more_than_there_is_is_refused():
    """Of which nothing is allocated before it is read."""
    whole = made.tar({"a": b"x"})
    head = tarfile.TarInfo("a")
    head.size = 2**26
    with pytest.raises(tarfile.TarError):
        list(archives.tar(io.BytesIO(head.tobuf() + whole[512:]), everything))


@pytest.mark.parametrize(("pack", "suffix"), [(lzma.compress, ".xz"), (gzip.compress, ".gz"), (lambda content: content, "")])
def test_a_debian_package_is_unpacked_however_it_is_compressed(pack, suffix):
    packed = made.deb("name", "1", {"usr/a": b"1"}, pack=pack, suffix=suffix)
    assert dict(archives.deb(packed, "data", everything)) == {"usr/a": b"1"}


def test_a_compression_that_cannot_be_read_is_named(monkeypatch):
    with pytest.raises(ValueError, match="compressed as .lz4; tar, gz, xz and zst can be read"):
        list(archives.deb(made.deb("name", "1", {}, suffix=".lz4"), "data", everything))
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(ValueError, match="pip install zstandard"):
        list(archives.deb(made.deb("name", "1", {}, suffix=".zst"), "data", everything))


def test_records_of_sprites_are_read():
    images = {"./arch/wall/a.111": b"abc", "b": b"", "./arch/door/c.111": b"IMAGE 3 d\nefg"}
    assert dict(sprites.records(crossfire(images))) == images
    assert [sprites.kind_of(name) for name in images] == ["wall", ".", "door"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"PICTURE 3 a\nabc", "byte 0 does not begin a record"),
        (b"IMAGE 3 a\nabcx", "byte 13 does not begin a record"),
        (b"IMAGE -3 a\nabc", "byte 0 does not begin a record"),
        (b"IMAGE 4 a\nabc", "the record 'a' is cut short"),
        (b"IMAGE 99999999999999999999 a\nabc", "the record 'a' is cut short"),
        (b"IMAGE 3 " + b"a" * 10_000 + b"\nabc", "byte 0 does not begin a record"),
        (b"IMAGE 3 \xff\xfe b\nabc", "byte 0 does not begin a record"),
    ],
)
def test_damaged_records_are_refused(content, sentence):
    with pytest.raises(ValueError, match=sentence):
        list(sprites.records(content))


def test_a_picture_comes_on_white_and_whole():
    red = Image.new("RGBA", (100, 50), (255, 0, 0, 0))
    red.paste((255, 0, 0, 255), (0, 0, 50, 50))
    file = io.BytesIO()
    red.save(file, format="PNG")
    pixels = collection.fitted(collection.on_white(file.getvalue()), 10)
    assert pixels.shape == (10, 10, 3)
    np.testing.assert_array_equal(pixels[2:7, :5], np.broadcast_to([255, 0, 0], (5, 5, 3)))
    assert (pixels[:, 5:] == 255).all() and (pixels[[0, 1, 7, 8, 9]] == 255).all()
    small = collection.fitted(Image.new("RGB", (2, 2)), 4)
    assert (small == 0).sum() == 3 * 4 and (small[1:3, 1:3] == 0).all()


@pytest.mark.parametrize("content", [b"", b"\x89PNG", files.encoded("GIF"), files.png(70_000, 70_000)])
def test_a_picture_that_is_none_is_refused(content):
    with pytest.raises(collection.UNREADABLE):
        collection.on_white(content)


def test_sprites_become_two_sets_that_share_nothing(tmp_path, capsys):
    images = {name: made.png(number) for number, name in enumerate(NAMES)}
    images |= {"./arch/wall/again.111": images[NAMES[0]], "./arch/wall/large.111": made.png(0, 64, 32)}
    (tmp_path / "a.deb").write_bytes(sprites_deb(images))
    out = tmp_path / "data" / "sprites"
    code, said, err = run(capsys, "sprites", f"--out={out}", f"--package={tmp_path / 'a.deb'}")
    training, held_out = stored(out / "sprites.npz"), stored(out / "sprites_test.npz")
    about = json.loads((out / "about.json").read_text())
    assert (code, err) == (0, "") and f"{sprites.PACKAGE} {sprites.TRIED}" in said
    assert len(training["images"]) + len(held_out["images"]) == 60 and 1 <= len(held_out["images"]) <= 15
    assert not {*training["names"]} & {*held_out["names"]} and "./arch/wall/again.111" not in training["names"]
    for part in (training, held_out):
        for name, image, label in zip(part["names"], part["images"], part["labels"], strict=True):
            np.testing.assert_array_equal(image, np.asarray(Image.open(io.BytesIO(images[name]))))
            assert part["label_names"][label] == name.split("/")[2] and collection.is_held_out(name) == (part is held_out)
    assert about["classes"] == {"monster": 30, "wall": 30} and about["num_duplicates"] == 1
    assert (out / "LICENCE.txt").read_bytes() == LICENCE
    source = sources.npz(path=str(out / "sprites_test.npz"))
    assert (source.num_images, source.class_names) == (about["num_held_out"], ("monster", "wall"))


def test_a_complete_folder_stays_and_a_half_made_one_is_made_again(tmp_path, capsys):
    (tmp_path / "a.deb").write_bytes(sprites_deb())
    arguments = ("sprites", f"--out={tmp_path / 'out'}", f"--package={tmp_path / 'a.deb'}")
    run(capsys, *arguments)
    whole = files.listing(tmp_path / "out")
    (tmp_path / "a.deb").unlink()
    code, said, _ = run(capsys, *arguments)
    assert code == 0 and said.startswith("complete ") and files.listing(tmp_path / "out") == whole
    (tmp_path / "a.deb").write_bytes(sprites_deb())
    for damaged in ("sprites.npz", "about.json"):
        (tmp_path / "out" / damaged).unlink()
        assert "done" in run(capsys, *arguments)[1] and files.listing(tmp_path / "out") == whole
    (tmp_path / "out" / "sprites.npz").write_bytes(b"cut")
    assert "done" in run(capsys, *arguments)[1] and files.listing(tmp_path / "out") == whole


def emoji_tgz() -> bytes:
    said = {"short_names": ["ok_hand", "fine"], "name": "OK  HAND", "subcategory": "hand-fingers-partial"}
    tones = [{"1F3FB": {"image": f"{n}x.png"}} if n % 3 else {"1F3FD-1F3FF": {"image": f"{n}x.png"}} for n in range(20)]
    table = [
        {"image": f"{n}.png", "category": ("Flags", "Objects")[n % 2], "skin_variations": tones[n], **said}
        for n in range(20)
    ]
    images = {f"{emoji.FOLDER}{entry['image']}": made.png(n, 64, 64) for n, entry in enumerate(table)}
    images |= {f"{emoji.FOLDER}{n}x.png": made.png(20 + n, 64, 64) for n in range(20)}
    others = {"emoji.json": json.dumps(table).encode(), "LICENSE": LICENCE, "README.md": b"# x\n* Noto images, free\n"}
    return made.tgz(emoji.PACKAGE, emoji.TRIED, others | images | {"img/google/sheets/64.png": made.png(99)})


@pytest.mark.parametrize(("flags", "size"), [((), 32), (("--size=64",), 64)])
def test_emoji_have_their_categories_and_the_size_that_is_asked_for(tmp_path, capsys, flags, size):
    (tmp_path / "a.tgz").write_bytes(emoji_tgz())
    code, _, _ = run(capsys, "emoji", *flags, f"--out={tmp_path}", f"--package={tmp_path / 'a.tgz'}")
    found = stored(tmp_path / "emoji.npz")
    assert code == 0 and found["images"].shape[1:] == (size, size, 3)
    kinds = [found["label_names"][label] for label in found["labels"]]
    assert kinds == [("Flags", "Objects")[int(name.strip("x")) % 2] for name in found["names"]]
    whole = np.asarray(Image.open(io.BytesIO(made.png(int(found["names"][0]), 64, 64))), float)
    means = whole.reshape(size, 64 // size, size, 64 // size, 3).mean((1, 3))
    assert np.abs(found["images"][0] - means).max() <= 1
    assert (tmp_path / "LICENCE.txt").read_text().startswith("Noto images, free\n\nThe package:\n\nFree for all")


def test_captions_of_emoji_are_names_group_and_skin(tmp_path, capsys):
    (tmp_path / "a.tgz").write_bytes(emoji_tgz())
    assert run(capsys, "emoji", f"--out={tmp_path}", f"--package={tmp_path / 'a.tgz'}")[0] == 0
    found, said = stored(tmp_path / "emoji.npz"), "ok hand, fine, hand fingers partial"
    skins = {"light": ", light skin", "two": ", medium skin, dark skin"}
    for name, caption in zip(found["names"], found["captions"], strict=True):
        skin = skins["light" if int(name[:-1]) % 3 else "two"] if name.endswith("x") else ""
        assert caption == said + skin
    lines = (tmp_path / "emoji_test.txt").read_text().splitlines()
    assert lines == stored(tmp_path / "emoji_test.npz")["captions"].tolist()
    sources.npz(path=str(tmp_path / "emoji.npz"), captions=True)


def test_openclipart_has_folders_as_classes(tmp_path, capsys):
    folder = "usr/share/openclipart/png"
    drawings = {f"{folder}/{kind}/sub/{n}.png": made.png((n, 1), 60, 30) for kind in ("food", "tools") for n in range(15)}
    drawings |= {f"{folder}/shapes/stars/1.png": made.png(1), f"{folder}/food/tiny.png": made.png(2, 10, 10)}
    drawings |= {f"{folder}/food/large.png": files.png(9000, 9000), f"{folder}/food/a.txt": b"text"}
    drawings |= {f"{folder}/tools/sub/{n}.png": made.png((n, 2), 300, 100) for n in range(15)}
    installed = drawings | {"usr/share/doc/openclipart-png/copyright": LICENCE}
    links = {f"./{folder}/food/link.png": "sub/1.png"}
    (tmp_path / "a.deb").write_bytes(made.deb("openclipart-png", "9", installed, links=links))
    code, said, _ = run(capsys, "openclipart", f"--out={tmp_path}", f"--package={tmp_path / 'a.deb'}")
    found, about = stored(tmp_path / "openclipart.npz"), json.loads((tmp_path / "about.json").read_text())
    assert code == 0 and found["images"].shape[1:] == (64, 64, 3) and about["num_left_out"] == 2
    assert about["classes"] == {"food": 15, "tools": 15} and about["num_training"] + about["num_held_out"] == 30
    assert "version 9; the documents speak of 1:0.18+dfsg-19" in said


def test_fashion_mnist_is_laid_out_for_the_idx_source(tmp_path, capsys):
    folder = "usr/share/datasets/fashion-mnist"
    labels = bytes(range(10))
    parts = {"images-idx3": files.idx(10, 28, 28), "labels-idx1": files.idx(10, data=labels)}
    installed = {f"{folder}/{part}-{k}-ubyte.gz": gzip.compress(v) for part in ("train", "t10k") for k, v in parts.items()}
    installed |= {"usr/share/doc/dataset-fashion-mnist/copyright": LICENCE}
    (tmp_path / "a.deb").write_bytes(made.deb("dataset-fashion-mnist", "0.0~git20200523.55506a9-1", installed))
    code, said, _ = run(capsys, "fashion_mnist", f"--out={tmp_path}", f"--package={tmp_path / 'a.deb'}")
    assert code == 0 and "10 to train with, 10 held out, 10 classes" in said
    assert sources.idx(path=str(tmp_path), split="test").num_images == 10


def animation(seed, num_frames) -> bytes:
    frames = [Image.open(io.BytesIO(made.png((seed, frame), 64, 64))) for frame in range(num_frames)]
    frames[0].save(file := io.BytesIO(), format="WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return file.getvalue()


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """Stands for npm: leaves the package that it is asked for, of 8 emoji that move, in two tones, and one that is still."""
    names = [f"{number:04x}{tone}" for number in range(32) for tone in ("", "-1f3fb")]
    for part, name in enumerate(animated_emoji.PACKAGES):
        contents = {f"assets/{names[k]}.webp": animation(k, 11) for k in range(16 * part, 16 * part + 16)}
        contents |= {
            "assets/.gitkeep": b"",
            "assets/still.webp": animation(99, 1),
            "README.md": b"# x\nThis project is free.\n",
        }
        (tmp_path / name.rpartition("/")[2]).write_bytes(made.tgz(name, animated_emoji.TRIED, contents))
    program = tmp_path / "npm"
    program.write_text(f'#!/bin/sh\nname=${{4#*/}}\ncp "{tmp_path}/${{name%@*}}" package.tgz\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    return names


def test_animated_emoji_are_videos_whose_tones_are_on_one_side(tmp_path, capsys, npm):
    code, said, _ = run(capsys, "animated_emoji", f"--out={tmp_path / 'out'}")
    parts = [stored(tmp_path / "out" / f"animated_emoji{suffix}.npz") for suffix in ("", "_test")]
    assert code == 0 and said.count("16 emoji that move") == 4
    assert sorted(name for part in parts for name in part["names"]) == npm
    training, held_out = ({name[:4] for name in part["names"]} for part in parts)
    assert not training & held_out and training | held_out == {name[:4] for name in npm}
    seed = npm.index(parts[0]["names"][0])
    for frame, pixels in zip(range(0, 11, 2), parts[0]["images"][0], strict=True):
        whole = np.asarray(Image.open(io.BytesIO(made.png((seed, frame), 64, 64))), float)
        assert np.abs(pixels - whole.reshape(32, 2, 32, 2, 3).mean((1, 3))).max() <= 1
    source = sources.npz(path=str(tmp_path / "out" / "animated_emoji_test.npz"), medium=media.VIDEOS)
    assert source.num_images == len(parts[1]["names"])
    assert (tmp_path / "out" / "LICENCE.txt").read_text().count(": This project is free.\n") == 4


class Node:
    """Stands for npm and node: leaves a lock, and draws so many faces."""

    def __init__(self, monkeypatch, num_drawn, said=b""):
        self.num_drawn, self.said = num_drawn, said
        monkeypatch.setattr(subprocess, "run", self.install)
        monkeypatch.setattr(subprocess, "Popen", self.draw)

    def install(self, command, *, cwd, **options):
        packages = {"": {}, "node_modules/@dicebear/collection": {"version": "9.4.3", "integrity": "sha512-x"}}
        with open(f"{cwd}/package-lock.json", "w") as file:
            json.dump({"packages": packages}, file)
        return subprocess.CompletedProcess(command, 0, "", "")

    def draw(self, command, *, cwd, stderr, **options):
        with open(f"{cwd}/wanted.json") as file:
            wanted = json.load(file)
        stderr.write(self.said)
        metas = [{"title": name, "creator": "X", "license": {"name": "CC0", "url": "u"}} for name in wanted["styles"]]
        shape = (len(wanted["seeds"]), wanted["size"], wanted["size"], 4)
        drawn = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        drawn[-1] = drawn[0]
        self.stdout = io.BytesIO(json.dumps(metas).encode() + b"\n" + drawn[: self.num_drawn].tobytes())
        self.drawn = drawn
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def kill(self):
        pass


def test_avatars_hold_out_seeds_of_their_own(tmp_path, capsys, monkeypatch):
    node = Node(monkeypatch, 200)
    code, _, _ = run(capsys, "avatars", "--size=32", "--num_images=200", f"--out={tmp_path}")
    training, held_out = stored(tmp_path / "avatars.npz"), stored(tmp_path / "avatars_test.npz")
    np.testing.assert_array_equal(training["images"], node.drawn[:180, ..., :3])
    np.testing.assert_array_equal(held_out["images"], node.drawn[180:199, ..., :3])  # the last is one of training again
    assert code == 0 and tuple(training["label_names"][training["labels"][: len(avatars.STYLES)]]) == avatars.STYLES
    assert not {*training["names"]} & {*held_out["names"]}
    assert (tmp_path / "LICENCE.txt").read_text().count("\n") == len(avatars.STYLES)


def test_faces_that_are_not_drawn_are_an_error_and_leave_nothing(tmp_path, capsys, monkeypatch):
    Node(monkeypatch, 7, b"node:internal\nTypeError: no such style\n    at draw.mjs\n")
    code, _, err = run(capsys, "avatars", "--num_images=200", f"--out={tmp_path / 'out'}")
    assert code == command.RUN_FAILED and not (tmp_path / "out").exists()
    assert err == "error: node drew 7 of 200 faces, then failed: TypeError: no such style.\n"


@pytest.fixture
def espeak(tmp_path, monkeypatch):
    """Stands for espeak-ng: two accents of two speakers; of each digit a tone, so many samples between silence."""
    voices = ("en-us", "en-gb"), ("m1", "f1")
    for name, values in zip(("VOICES", "VARIANTS", "PITCHES", "SPEEDS"), (*voices, (50,), (200,)), strict=True):
        monkeypatch.setattr(spoken_digits, name, values)
    said = "echo 'eSpeak NG text-to-speech: 1.50  Data at: /x'"
    program = tmp_path / "espeak-ng"
    program.write_text(f'#!/bin/sh\ncase $1 in --version) {said};; *) cp "{tmp_path}/$2 $9.wav" "$8";; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

    def speak(length):
        for number, voice in enumerate(f"{accent}+{speaker}" for accent in voices[0] for speaker in voices[1]):
            for digit, word in enumerate(spoken_digits.WORDS):
                tone = 8000 * np.sin(2 * np.pi * (200 + 100 * digit + 10 * number) * np.arange(length) / 16_000)
                padded = np.pad(tone.astype(np.int16), (3000, 5000))[:, None]
                (tmp_path / f"{voice} {word}.wav").write_bytes(audio.wav(padded, 16_000))

    return speak


def test_spoken_digits_hold_out_pairs_of_accent_and_speaker_and_have_no_silence_before_them(tmp_path, capsys, espeak):
    espeak(4000)
    out = tmp_path / "out"
    code, said, _ = run(capsys, "spoken_digits", f"--out={out}")
    assert code == 0 and "espeak-ng is of version 1.50; the documents speak of 1.51" in said
    parts = {"": stored(out / "spoken_digits.npz"), "_test": stored(out / "spoken_digits_test.npz")}
    voices = [{name.split(" ")[0] for name in part["names"]} for part in parts.values()]
    assert voices == [{"en-us+f1", "en-gb+m1", "en-gb+f1"}, {"en-us+m1"}]
    for suffix, part in parts.items():
        source = sources.npz(path=str(out / f"spoken_digits{suffix}.npz"), medium=media.SOUNDS)
        assert source.class_names == tuple("0123456789") and part["labels"].tolist() == [*range(10)] * (
            source.num_images // 10
        )
        sounds = part["images"]
        assert sounds.shape[1:] == (4096, 1) and (np.max(np.abs(sounds), axis=1) == 32767).all()
        assert (np.abs(sounds[:, :20]).max(axis=1) > 1000).all() and not sounds[:, 2020:].any()
        pitch = np.argmax(np.abs(np.fft.rfft(sounds[..., 0], 8000)), axis=1)
        assert np.abs(pitch // 100 - 2 - part["labels"]).max() == 0
    about = json.loads((out / "about.json").read_text())
    assert (about["program"], about["version"], about["num_training"]) == ("espeak-ng", "1.50", 30)
    assert "espeak-ng 1.50. Its licence, GPL-3, is that of the program" in (out / "LICENCE.txt").read_text()


@pytest.mark.parametrize("length", [0, 8400])
def test_a_digit_that_is_silent_or_too_long_is_named(length, tmp_path, capsys, espeak):
    espeak(length)
    code, _, err = run(capsys, "spoken_digits", f"--out={tmp_path / 'out'}")
    assert code == command.BAD_INPUT and not (tmp_path / "out").exists() and err.count("\n") == 1
    assert "'espeak-ng: en-us+m1 50 200 0' is damaged, or not as expected (ValueError: " in err


def test_help_lists_every_set(capsys):
    _, said, _ = run(capsys, "--help")
    for name, row in fetch.SETS.items():
        assert f"    {name} " in said and row.licence in said and row.source in said


@pytest.mark.parametrize(
    ("name", "client"),
    [
        ("sprites", "apt-get"),
        ("openclipart", "apt-get"),
        ("emoji", "npm"),
        ("animated_emoji", "npm"),
        ("avatars", "npm"),
        ("spoken_digits", "espeak-ng"),
    ],
)
def test_a_missing_client_is_named(name, client, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, err = run(capsys, name, f"--out={tmp_path / 'out'}")
    assert code == command.BAD_INPUT and not (tmp_path / "out").exists()
    assert err.startswith(f"error: {client} is needed, and not installed; ") and err.count("\n") == 1


def test_a_client_that_fails_is_repeated(tmp_path, capsys, monkeypatch):
    (tmp_path / "apt-get").write_text("#!/bin/sh\necho 'E: Unable to locate package' >&2\nexit 100\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    code, _, err = run(capsys, "sprites", f"--out={tmp_path / 'out'}")
    assert code == command.RUN_FAILED and not (tmp_path / "out").exists()
    sentence = "error: `apt-get download crossfire-client-images` failed: E: Unable to locate package; `apt-get update`"
    assert err.startswith(sentence)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A folder of packages, good ones and others, and of folders that hold something else."""
    folder, whole = tmp_path_factory.mktemp("given"), sprites_deb()
    contents = {"good.deb": whole, "cut.deb": whole[:-40_000], "text.deb": b"words", "text.tgz": b"words"}
    contents["damaged.deb"] = sprites_deb({NAMES[0]: b"not a picture"})
    contents["other.deb"] = made.deb(sprites.PACKAGE, sprites.TRIED, {"usr/other": b""})
    contents |= {"own/about.json": b"[1]", "emoji/about.json": ABOUT_EMOJI}
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "the set or flag --out is missing: fetch NAME --out=DIR, where NAME is sprites, emoji,"),
        (["sprites"], "the set or flag --out is missing"),
        (
            ["cifar10", "--out=x"],
            "set 'cifar10' is unknown; it must be sprites, emoji, animated_emoji, openclipart, fashion_mnist, qm9, "
            "spoken_digits, avatars.",
        ),
        (
            ["sprite", "--out=x"],
            "set 'sprite' is unknown; did you mean sprites? It must be sprites, emoji, animated_emoji, ",
        ),
        (["sprites", "--out=x", "--size=64"], "flag --size = 64 does nothing for the set 'sprites'."),
        (["emoji", "--out=x", "--size=48"], "flag --size = 48 is not allowed for the set 'emoji'; it must be 32 or 64."),
        (
            ["emoji", "--out=x", "--size=-1"],
            "flag --size = '-1' is not allowed; it must be a whole number from 0 on, of at most 9 digits.",
        ),
        (
            ["avatars", "--out=x", "--num_images=9"],
            "flag --num_images = 9 is not allowed for the set 'avatars'; it must be 100",
        ),
        (["avatars", "--out=x", "--package=a.tgz"], "flag --package does nothing for the set 'avatars'"),
        (
            ["animated_emoji", "--out=x", "--package=a.tgz"],
            "flag --package does nothing for the set 'animated_emoji', which",
        ),
        (["spoken_digits", "--out=x", "--package=a.deb"], "flag --package does nothing for the set 'spoken_digits'"),
        (["sprites", "--out=x", "--config=configs/digits.py"], "flag --config has no effect on this program"),
        (
            ["sprites", "--out=x", "--package=nowhere.deb"],
            "flag --package = 'nowhere.deb' does not exist; it must be the package",
        ),
        (["emoji", "--out=x", "--package={folder}/good.deb"], "is not a .tgz file; it must be the package"),
        (
            ["openclipart", "--out=x", "--package={folder}/good.deb"],
            "is 'crossfire-client-images'; it must be 'openclipart-png'.",
        ),
        (
            ["sprites", "--out=x", "--package={folder}/text.deb"],
            "is damaged, or not as expected (ValueError: it does not begin",
        ),
        (["sprites", "--out=x", "--package={folder}/cut.deb"], "is damaged, or not as expected ("),
        (["sprites", "--out=x", "--package={folder}/other.deb"], "is damaged, or not as expected (KeyError: "),
        (
            ["sprites", "--out=x", "--package={folder}/damaged.deb"],
            "is damaged, or not as expected (ValueError: it is not a PNG",
        ),
        (["emoji", "--out=x", "--package={folder}/text.tgz"], "is damaged, or not as expected ("),
        (["sprites", "--out={folder}/good.deb"], "good.deb' is a file; it must be a folder."),
        (["sprites", "--out={folder}/own"], "about.json' is not of a set that was fetched; choose another --out."),
        (["sprites", "--out={folder}/emoji"], "holds another set (set emoji); choose another --out."),
    ],
)
def test_bad_input_gets_one_sentence_and_writes_nothing(arguments, sentence, given, capsys, monkeypatch):
    monkeypatch.chdir(given)
    before = files.listing(given)
    code, _, err = run(capsys, *[argument.format(folder=given) for argument in arguments])
    assert code == command.BAD_INPUT and err.startswith("error: ") and sentence in err and err.count("\n") == 1
    assert files.listing(given) == before
