"""The walkthrough: runs the exposee and the receiver, and shows every byte that passes between them.

    python3 walkthrough.py               the whole lesson, one step at a time
    python3 walkthrough.py --chapter 3   one chapter; each stands alone
    python3 walkthrough.py --list        the titles of the chapters
    python3 walkthrough.py --markdown    a page; WALKTHROUGH.md is this page

The programs are those of this directory. They run on free ports, in a temporary folder that is removed at the end. The
chapters are in lesson.py. Exit codes: 0 at the end, after q and after Ctrl-C; 1 when one of the programs did not do
what the lesson needs; 2 for a wrong option.
"""

import terminal  # isort: skip  # first, so that a Ctrl-C during the other imports is no traceback

import argparse
import contextlib
import signal
import sys
from collections.abc import Sequence

import lesson
from lesson import CHAPTERS, Chapter
from lesson_client import receiver_url, request, talk
from options import Parser
from walkthrough_lesson import Lesson
from walkthrough_page import Leave, Markdown, Normal, Screen
from walkthrough_programs import STOPPING, LessonFailed, Programs


def introduce(teller: Lesson, alone: bool) -> None:
    """What every reader has to know; with `alone` also the functions that chapter 1 explains."""
    page = teller.page
    page.title("A webhook, byte by byte")
    teller.say(lesson.INTRODUCTION)
    page.pause()
    teller.say(lesson.EXERCISES)
    ports = (3000, 8080) if isinstance(page, Markdown) else (teller.exposee, teller.receiver)
    page.prompt("Lines to copy to the prompt", lesson.PROMPT.format(*ports).strip().split("\n"))
    page.pause()
    teller.say(lesson.SOLUTIONS + (lesson.ON_THIS_PAGE if isinstance(page, Markdown) else lesson.LIVE))
    page.pause()
    for function in (talk, request) if alone else ():
        teller.source(function, title="A function of chapter 1")
        page.pause()


def teach(chapter: Chapter, number: int, lesson: Lesson, last: bool = False) -> None:
    """One chapter, from its title to the solution of its exercise."""
    page, programs = lesson.page, lesson.programs
    programs.start(f"chapter-{number}", chapter.receiver_options, chapter.exposee_options)
    page.chapter(f"{number}. {chapter.title}")
    with lesson.open:
        for step in chapter.steps:
            step(lesson)
            page.pause()
        page.step("Now you")
        lesson.say(chapter.exercise)
        with page.solution():
            lesson.source(chapter.solution)
            lesson.show("The answer", ("< ", solved(chapter, programs)), most=1_000)
        page.pause("end" if last else "next chapter")


def solved(chapter: Chapter, programs: Programs) -> bytes:
    """The answer that the solution gets from a pair of its own; the reader's pair still runs."""
    with contextlib.closing(Programs(programs.ports[4:] * 3)) as own:
        own.start("solution", chapter.receiver_options, chapter.exposee_options)
        exposee, receiver = own.ports[:2]
        body = {"url": receiver_url(receiver), "event_types": ["payment_received"]}
        talk(exposee, request("POST", "/webhooks/register", body))
        try:
            return chapter.solution(exposee, receiver)
        except AssertionError:
            name = chapter.solution.__name__
            raise LessonFailed(f"{name} of lesson.py failed: one of its asserts is not true") from None


def perform(chapters: Sequence[int], markdown: bool) -> None:
    """Show these chapters to the end. Leave when the reader has typed q."""
    with contextlib.closing(Programs()) as programs:
        normal = Normal(programs.ports)
        page = Markdown(normal=normal) if markdown else Screen(wait=sys.stdin is not None and sys.stdin.isatty())
        introduce(Lesson(programs, page, normal), alone=len(chapters) == 1 and chapters[0] > 1)
        for number in chapters:
            teach(CHAPTERS[number - 1], number, Lesson(programs, page, normal), number == chapters[-1])


def chapter_number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= len(CHAPTERS)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a chapter, expected a number from 1 to {len(CHAPTERS)}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    options = Parser("Walk through a webhook, byte by byte.")
    options.add_argument("--chapter", type=chapter_number, metavar="N", help="show this chapter only")
    options.add_argument("--list", action="store_true", help="list the chapters and end")
    options.add_argument("--markdown", action="store_true", help="print the lesson as a page, the same in every run")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """0 at the end, when the reader leaves, and when the output has no reader any more; 1 when the lesson failed."""
    options = parser().parse_args(argv)
    before = [(number, signal.signal(number, interrupt)) for number in STOPPING]
    try:
        if options.list:
            print(*(f"{number}. {chapter.title}" for number, chapter in enumerate(CHAPTERS, 1)), sep="\n")
            return 0
        if options.markdown and hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        perform([options.chapter] if options.chapter else range(1, len(CHAPTERS) + 1), options.markdown)
    except (Leave, EOFError):
        terminal.say("Until next time")
    except KeyboardInterrupt:
        terminal.say("", "Stopped")
    except BrokenPipeError:
        pass  # the output is closed, as after `| head`
    except (LessonFailed, OSError) as error:
        return terminal.fail(error, 1)
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    return 0


def interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    terminal.run(main)
