"""Write the vectors anew, after a change of what a client sends or reads."""

from tests.vectors.files import FOLDER, made

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, text in made().items():
        path.write_text(text)
