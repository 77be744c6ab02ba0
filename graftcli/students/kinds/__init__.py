"""The kinds of students that can be derived from the teacher, one file each."""
