mkdir -p a/b/c x
touch a/1.txt a/b/2.txt a/b/c/3.c
find . | sort
find . -name '*.txt' -type f | sort
find . -type d -exec echo dir {} \; | sort
find . -name '*.c' -print0 | xargs -0 ls -1
find a -depth | wc -l
find . -newer a/1.txt | wc -l
find . -maxdepth 1 | sort
find . -name '*.txt' -delete
find . | sort
find /missing
echo $?
find . -empty | sort
find . -mtime -1 -size -10k | wc -l
find . -perm -644 | wc -l
