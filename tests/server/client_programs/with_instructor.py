"""instructor: an object of a pydantic class."""

import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel, Field


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)


client = instructor.from_openai(OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none"), mode=instructor.Mode.JSON_SCHEMA)
found = client.chat.completions.create(
    model="smol",
    response_model=Person,
    messages=[{"role": "user", "content": "Ada is 36 years old."}],
    temperature=0,
    max_tokens=100,
)
assert isinstance(found, Person)
print(found)
