from dataclasses import replace
from html.parser import HTMLParser

from segkit.evaluation.case import CaseScores
from segkit.evaluation.explanations import Explanation
from segkit.evaluation.summary import Summary, summarize
from segkit.report.evaluation_html import (
    evaluation_page,
    worst_cases,
    write_evaluation_page,
)


def make_summary(labels, regions=None, metrics=("dice", "iou")):
    def of_case(block, i):
        return {name: dict.fromkeys(metrics, values[i]) for name, values in block.items()}

    count = len(next(iter(labels.values())))
    cases = tuple(
        CaseScores(case=f"case_{i}", labels=of_case(labels, i), regions=of_case(regions or {}, i))
        for i in range(count)
    )
    return Summary(
        dataset="Dataset<b>1",
        metrics=metrics,
        nsd_tolerance_mm=1.0,
        **summarize(cases, metrics),
        cases=cases,
        not_predicted=("late",),
        made_from="0" * 16,
    )


class Checker(HTMLParser):
    """Keep the open tags; every end tag must close the last one."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag != "meta":
            self.open.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parse(page):
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


def test_the_page_stands_alone_and_is_well_formed():
    page = evaluation_page(make_summary({"liver": [0.9, None, 0.7], "tumour": [None] * 3}))
    checker = parse(page)
    assert not checker.sources
    assert checker.tags.count("circle") == 2
    assert "http" not in page
    assert "n/a (absent in 1 of 3)" in page
    assert "n/a (absent in 3 of 3)" in page
    assert "<li>1 reference is left out, without a prediction: late</li>" in page
    assert "connected component" not in page


def test_names_are_escaped():
    name = "<script>alert('$x$ & more')</script>"
    summary = make_summary({name: [0.5, 0.25]})
    page = evaluation_page(summary)
    assert "script" not in parse(page).tags
    assert "Dataset&lt;b&gt;1" in page


def test_worst_cases_are_ranked_over_defined_targets():
    summary = make_summary({"a": [0.9, 0.2, None, None], "b": [0.5, None, 0.1, None]})
    ranked = [(case.case, round(mean, 3)) for case, mean in worst_cases(summary)]
    assert ranked == [("case_2", 0.1), ("case_1", 0.2), ("case_0", 0.7)]
    assert len(worst_cases(make_summary({"a": [i / 20 for i in range(20)]}))) == 10


def test_regions_lead():
    summary = make_summary({"a": [0.1, 0.9]}, {"whole": [0.8, 0.3]})
    assert worst_cases(summary)[0][0].case == "case_1"
    page = evaluation_page(summary)
    assert page.index("Regions") < page.index("Labels")
    assert page.count("foreground mean") == 1


def test_nothing_defined_and_no_dice(tmp_path):
    parse(evaluation_page(make_summary({"a": [None, None]})))
    page = evaluation_page(make_summary({"a": [1.0]}, metrics=("hd95_mm",)))
    assert "Dice was not computed" in page
    write_evaluation_page(make_summary({"a": [1.0]}), tmp_path / "report.html")
    parse((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_explanations_lesions_and_absence_are_told():
    counts = ("dice", "lesion_tp", "lesion_fp", "lesion_fn")
    summary = make_summary({"a<b": [1.0, None]}, {"whole": [1.0, None]}, counts)
    why = Explanation(
        label="a<b",
        region="whole",
        dice_label=0.1,
        dice_region=0.9,
        volume_label_ml=1.0,
        volume_region_ml=2.0,
        wrong_voxels=3,
        border=0.5,
        inherited=0.5,
        text="a<b is below whole",
    )
    unknown = replace(summary.cases[1], unannotated=("a<b",))
    cases = (replace(summary.cases[0], annotated_share=0.5), unknown)
    page = evaluation_page(replace(summary, explanations=(why,), absent_score=1.0, cases=cases))
    parse(page)
    assert "<li>a&lt;b is below whole</li>" in page
    assert "whole: 1 of 2 lesions of all cases are found" in page
    assert "counts as 1, not as n/a" in page
    assert "n/a (not annotated in 1 of 2)" in page
    assert "n/a (absent in 1 of 2)" in page
    assert "1 of 2 cases are scored on a part of their voxels only (50% on average)" in page
    for legend in ("a connected component (26 neighbours", "the border that the label has in the"):
        assert legend in page
    assert "Why labels score lower" not in evaluation_page(summary)
