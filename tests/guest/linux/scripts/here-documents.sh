cat <<X
cat <<'Y'
cat <<-Z
home $HOME $((1+2)) $(echo sub)
X
raw $HOME
Y
	tabs
	Z
cat <<BIG | wc -c
$(seq 1 20000)
BIG
read a b <<X
one two three
X
echo "$a|$b"
