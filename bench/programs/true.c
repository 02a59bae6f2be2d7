/* What every contender executes as its init: it ends well at once, so that a life is all that a container costs. */
int main(void)
{
	return 0;
}
