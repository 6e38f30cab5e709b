cut -d: -f1,3-4 /etc/passwd | head -5
echo abcdef | cut -c2-4
echo 'Hello World' | tr a-z A-Z
echo 'aabbcc' | tr -s ab
echo 'h e l' | tr -d ' '
seq 5 | tr '\n' ,
echo abc | tr -c 'b\n' x
echo
echo abc | tr '[:lower:]' '[:upper:]'
rev <<X
abc def
X
seq 6 | paste - - -
printf 'a b\nc d\n' > 1
printf 'a x\nc y\n' > 2
join 1 2
comm 1 2
diff 1 2
echo $?
uniq -c <<X
a
a
b
X
nl 1
fold -w 3 1
expand <<X
	tab
X
tac 1
seq 1 100 | shuf | sort -n | md5sum
split -l 10 1 part
ls
seq 3 | xargs -n 1 echo n
