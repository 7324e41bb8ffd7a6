"""A run's page on the Hub, as a static Space."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from local_hub import OWNER

from vecaf_hf.cli.main import main
from vecaf_hf.reporting.amending import amended, with_page


def test_a_runs_page_becomes_a_space_under_its_model(hub, finished, capsys):
    finished.args.hub_model_id = f"{OWNER}/run"
    finished.save_model()
    finished.save_state()
    finished.push_to_hub()
    folder = Path(finished.args.output_dir)
    for _ in range(2):
        assert main(["report", str(folder), "--space", "look"]) == 0
        assert f"{hub.url}/spaces/{OWNER}/look" in capsys.readouterr().out
    files = hub.repos[f"{OWNER}/look"]
    assert files["index.html"] == (folder / "report" / "index.html").read_bytes()
    assert {path.name for path in (folder / "report").glob("*.png")} < files.keys()
    header = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert header["sdk"] == "static" and header["app_file"] == "index.html" and header["models"] == [f"{OWNER}/run"]
    link = f"<!-- vecaf_hf:page -->\n\n[The run's page]({hub.url}/spaces/{OWNER}/look)"
    for card in (hub.repos[f"{OWNER}/run"]["README.md"].decode(), (folder / "README.md").read_text()):
        # After the section that says what this is, once.
        assert card.count("<!-- vecaf_hf:page -->") == 1 and card.index("/vecaf_hf:about") < card.index(link)
        assert card.index(link) < card.index("vecaf_hf:load")
    # The Hub's had the link already the second time.
    assert hub.commits.count("The run's page") == 1
    # A card that is renewed keeps it.
    finished.create_model_card()
    assert link in (folder / "README.md").read_text()
    assert str(folder.parent) not in files["index.html"].decode()


def test_a_model_without_its_owner_or_not_on_the_hub(hub, finished, capsys):
    finished.save_model()
    finished.create_model_card()
    finished.save_state()
    folder = Path(finished.args.output_dir)
    # Pushed under the folder's name, later.
    for pushed in (False, True):
        if pushed:
            assert main(["push", str(folder)]) == 0
        assert main(["report", str(folder), "--space", "look"]) == 0
        assert ("has no card on the Hub that could link to it" in capsys.readouterr().out) is not pushed
    assert f"/spaces/{OWNER}/look" in hub.repos[f"{OWNER}/{folder.name}"]["README.md"].decode()


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_link_in_somebodys_own_card(newline):
    """At its end, once; sections of ours come beside it later."""
    own = newline.join(["# Mine", "", "Words of mine.", ""])
    linked = with_page(own, "https://hub/spaces/a/look")
    assert linked.startswith(own) and "https://hub/spaces/a/look" in linked
    assert linked.count("\n") == linked.count(newline)
    assert with_page(linked, "https://hub/spaces/a/look") == linked
    fresh = "# Run\n\n<!-- vecaf_hf:about -->\n\nAbout.\n\n<!-- /vecaf_hf:about -->\n"
    renewed = amended(linked, fresh)
    assert "About." in renewed and "https://hub/spaces/a/look" in renewed and "Words of mine." in renewed


def test_what_fails_is_told_in_a_sentence_and_the_page_is_there(hub, finished, capsys):
    finished.save_model()
    finished.save_state()
    folder = Path(finished.args.output_dir)
    hub.fail("commit", 403)
    assert main(["report", str(folder), "--space", "look"]) == 1
    assert "the token may not write there (403)" in capsys.readouterr().err
    assert (folder / "report" / "index.html").is_file()
