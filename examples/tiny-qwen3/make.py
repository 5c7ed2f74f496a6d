#!/usr/bin/env python3
"""Make the example model, its captured hidden states, test variants of its head, or a big head."""

import argparse
from pathlib import Path

HERE = Path(__file__).resolve().parent

# The modules are imported by the verb that needs them: only `train` and `capture` need torch.


def train(args: argparse.Namespace) -> None:
    import text
    import train as training

    documents = text.file_documents(args.text) if args.text else text.bible_documents()
    training.train(args.out, text.split(documents), args.steps)
    training.capture(args.out)


def variants(args: argparse.Namespace) -> None:
    from variants import write_variants

    write_variants(args.out, HERE)


def full_size(args: argparse.Namespace) -> None:
    from full_size import write_full_size

    write_full_size(args.out, args.shape, args.rows)


def positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise ValueError(value)
    return number


def shape(value: str) -> tuple[int, int]:
    vocab_size, hidden_size = (positive(part) for part in value.split(","))
    return vocab_size, hidden_size


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verb = verbs.add_parser("train", help="train the model, then capture its hidden states")
    verb.add_argument("--out", type=Path, default=HERE, help="folder to write (default: this one)")
    verb.add_argument("--text", type=Path, nargs="+", metavar="FILE", help="plain English text")
    verb.add_argument("--steps", type=positive, default=2600, help="default: %(default)s")
    verb.set_defaults(run=train)

    verb = verbs.add_parser("variants", help="write the model's head in many forms, for tests")
    verb.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    verb.set_defaults(run=variants)

    verb = verbs.add_parser("full-size", help="write a random head of full size, for tests")
    verb.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    verb.add_argument(
        "--shape", type=shape, default=(151936, 4096), metavar="V,H", help="default: 151936,4096"
    )
    verb.add_argument(
        "--rows", type=positive, default=4096, metavar="T", help="hidden states (default: 4096)"
    )
    verb.set_defaults(run=full_size)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
